"""Keys in the order of their ids, page by page: all of them, or those that a filter lets through.

A tag, and the beginning of an id, are looked up in an index. A name's part and a status aren't: for
them the entries of an index are read one by one, at most so many for a page.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import Column, Connection, and_, or_, select
from sqlalchemy.sql.elements import ColumnElement

from reverie.store.database import schema
from reverie.store.keys import Key, Status, key_of_row

MOST_READ = 1_000_000
"""Keys that one page reads at most. SQLite takes about a quarter of a second for so many."""
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
    id, looked_up = _looked_up(wanted, after)
    filtered = _filtered(wanted, now)
    last_read = None
    if filtered and limit is not None:
        last_read = connection.execute(
            select(id).where(*looked_up).order_by(id).offset(most_read - 1).limit(1)
        ).scalar()
    ids = select(_KEYS.c.id).where(*looked_up, *filtered).order_by(id)
    if wanted.tag is not None:
        ids = ids.join(_TAGS, _TAGS.c.key_id == _KEYS.c.id)
    if last_read is not None:
        ids = ids.where(id <= last_read)
    if limit is not None:
        ids = ids.limit(limit + 1)
    # Ids first, which an index alone tells: most of what is read isn't wanted.
    statement = select(_KEYS).where(_KEYS.c.id.in_(ids)).order_by(_KEYS.c.id)
    found = [key_of_row(row) for row in connection.execute(statement)]
    if limit is not None and len(found) > limit:
        return KeyPage(found[:limit], found[limit - 1].id)
    return KeyPage(found, last_read)


def _looked_up(wanted: KeyFilter, after: str) -> tuple[Column[str], list[ColumnElement[bool]]]:
    """The column of ids that is gone through, and what an index tells of them."""
    id = _KEYS.c.id if wanted.tag is None else _TAGS.c.key_id
    conditions: list[ColumnElement[bool]] = [id > after]
    if wanted.tag is not None:
        conditions.append(_TAGS.c.tag == wanted.tag)
    begin = _begin_of_id(wanted)
    if begin is not None:
        conditions += [id >= begin, id < begin + "z" * 8]
    return id, conditions


def _begin_of_id(wanted: KeyFilter) -> str | None:
    """What ids are to begin with, if that is what the part is."""
    if wanted.part is None or not wanted.part.lower().startswith(_ID_BEGINS):
        return None
    return wanted.part.lower()


def _filtered(wanted: KeyFilter, now: int) -> list[ColumnElement[bool]]:
    """What must be read of a key to know it."""
    conditions: list[ColumnElement[bool]] = []
    begin = _begin_of_id(wanted)
    if begin is not None:
        conditions.append(_KEYS.c.id.startswith(begin, autoescape=True))
    elif wanted.part is not None:
        conditions.append(_in_name(wanted.part))
    expired = and_(_KEYS.c.expires_at.is_not(None), _KEYS.c.expires_at <= now)
    if wanted.status == "revoked":
        conditions.append(_KEYS.c.revoked_at.is_not(None))
    elif wanted.status == "expired":
        conditions += [_KEYS.c.revoked_at.is_(None), expired]
    elif wanted.status == "active":
        conditions += [_KEYS.c.revoked_at.is_(None), ~expired]
    return conditions


def _in_name(part: str) -> ColumnElement[bool]:
    """True of a name with this part. Databases tell upper from lower case outside ASCII, so that
    the part is looked for in both."""
    written = [part] if part.isascii() else dict.fromkeys((part, part.lower(), part.upper()))
    return or_(*(_KEYS.c.name.icontains(one, autoescape=True) for one in written))
