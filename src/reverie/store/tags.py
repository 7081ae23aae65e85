"""Tags of keys: labels to find keys by and to sum up their use. A key's own row knows nothing of
them, since no request needs them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, insert, select

from reverie.store.database import schema

_TAGS = schema.key_tags
_AT_ONCE = 1000
"""Ids in one statement: databases bound the number of its parameters."""


def set_tags(connection: Connection, key_id: str, tags: Collection[str]) -> None:
    """Give a key these tags, in place of all that it had."""
    connection.execute(delete(_TAGS).where(_TAGS.c.key_id == key_id))
    if tags:
        connection.execute(insert(_TAGS), [{"key_id": key_id, "tag": tag} for tag in tags])


def tags_of(connection: Connection, key_ids: Sequence[str]) -> dict[str, list[str]]:
    """Key's id → its tags, sorted. A key without any has no entry."""
    found: dict[str, list[str]] = {}
    for first in range(0, len(key_ids), _AT_ONCE):
        some = key_ids[first : first + _AT_ONCE]
        for id, tag in connection.execute(select(_TAGS).where(_TAGS.c.key_id.in_(some))):
            found.setdefault(id, []).append(tag)
    return {id: sorted(tags) for id, tags in found.items()}
