"""What a writer knows of the database from its own transactions, as long as nobody else writes.

Rule: something is known in a transaction that holds SQLite's write lock only, so that nobody can
change it meanwhile. Whoever writes through such a transaction notes what that changes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")

_PLACE = "reverie.known"


def begin(connection: Connection, own: sqlite3.Connection) -> None:
    """Begin to use what is known in a transaction of SQLite's that has the write lock.

    SQLite's ``data_version`` changes whenever another connection, of any process, has committed.

    Args:
        own: SQLite's own connection.
    """
    version = own.execute("PRAGMA data_version").fetchone()
    if connection.info.get(_PLACE, {}).get(None) != version:
        connection.info[_PLACE] = {None: version}


def forget(connection: Connection) -> None:
    """Forget everything, as after a transaction that failed."""
    connection.info.pop(_PLACE, None)


def known(connection: Connection, kind: Callable[[], T]) -> T | None:
    """What is known of one kind, empty at first; None where nothing may be known."""
    everything: dict[Any, Any] | None = connection.info.get(_PLACE)
    if everything is None:
        return None
    if kind not in everything:
        everything[kind] = kind()
    found: T = everything[kind]
    return found
