"""Keys in the order of their ids, page by page: all of them, or those that a filter lets through.

A tag, and the beginning of an id, are looked up in an index. A name's part and a status aren't: for
them keys are read one by one, at most so many for a page.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Select, and_, or_, select
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Subquery

from reverie.store.database import schema
from reverie.store.keys import Key, Status, key_of_row

MOST_READ = 1_000_000
"""Keys that one page reads at most. SQLite takes about a third of a second for so many."""
_KEYS = schema.keys
_TAGS = schema.key_tags
_ID_BEGINS = "key_"
"""How each id begins, and no name does."""


class KeyFilter(Struct, frozen=True, kw_only=True):
    """Which keys are wanted: those for which all of this holds."""

    part: str | None = None
    """A part of the name, in upper or lower case, or the beginning of the id."""
    tag: str | None = None
    status: Status | None = None


class KeyPage(Struct, frozen=True):
    """Some keys, and where to go on."""

    keys: list[Key]
    next: str | None
    """The next page is what comes after this id; None: there is none. A page whose reading was cut
    off has a next one, however few keys it has."""


def listed(
    connection: Connection,
    now: int,
    wanted: KeyFilter | None = None,
    *,
    after: str = "",
    limit: int | None = None,
    most_read: int = MOST_READ,
) -> KeyPage:
    """The keys that are wanted, from the first one after ``after``.

    Args:
        now: milliseconds since 1970, which tells what has expired.
        limit: keys of the page; None: all of them, however many must be read.
    """
    wanted = wanted or KeyFilter()
    by_id = wanted.part is not None and wanted.part.lower().startswith(_ID_BEGINS)
    read = _read(wanted, after, by_id)
    rows = (read if limit is None else read.limit(most_read)).subquery()
    conditions = _conditions(rows, wanted, now, by_id)
    statement = select(rows).where(*conditions).order_by(rows.c.id)
    if limit is not None:
        statement = statement.limit(limit + 1)
    found = [key_of_row(row) for row in connection.execute(statement)]
    if limit is not None and len(found) > limit:
        return KeyPage(found[:limit], found[limit - 1].id)
    if limit is None or not conditions:
        return KeyPage(found, None)
    last_read = read.with_only_columns(_KEYS.c.id).offset(most_read - 1).limit(1)
    return KeyPage(found, connection.execute(last_read).scalar())


def _read(wanted: KeyFilter, after: str, by_id: bool) -> Select[Any]:
    """The keys among which those that are wanted are looked for, in order."""
    read: Select[Any] = select(_KEYS)
    if wanted.tag is None:
        read = read.where(_KEYS.c.id > after).order_by(_KEYS.c.id)
    else:
        read = read.join(_TAGS, _TAGS.c.key_id == _KEYS.c.id)
        read = read.where(_TAGS.c.tag == wanted.tag, _TAGS.c.key_id > after)
        read = read.order_by(_TAGS.c.key_id)
    if by_id and wanted.part is not None:
        begin = wanted.part.lower()
        read = read.where(_KEYS.c.id >= begin, _KEYS.c.id < begin + "z" * 8)
    return read


def _conditions(
    rows: Subquery, wanted: KeyFilter, now: int, by_id: bool
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.part is not None and by_id:
        conditions.append(rows.c.id.startswith(wanted.part.lower(), autoescape=True))
    elif wanted.part is not None:
        conditions.append(_in_name(rows, wanted.part))
    expired = and_(rows.c.expires_at.is_not(None), rows.c.expires_at <= now)
    if wanted.status == "revoked":
        conditions.append(rows.c.revoked_at.is_not(None))
    elif wanted.status == "expired":
        conditions += [rows.c.revoked_at.is_(None), expired]
    elif wanted.status == "active":
        conditions += [rows.c.revoked_at.is_(None), ~expired]
    return conditions


def _in_name(rows: Subquery, part: str) -> ColumnElement[bool]:
    """True of a name with this part. Databases tell upper from lower case outside ASCII, so that
    the part is looked for in both."""
    written = [part] if part.isascii() else dict.fromkeys((part, part.lower(), part.upper()))
    return or_(*(rows.c.name.icontains(one, autoescape=True) for one in written))
