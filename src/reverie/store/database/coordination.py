"""How gateways that share a database keep out of each other's way: advisory locks and one clock."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from sqlalchemy import Connection, text

_ADVISORY_LOCKS = text(
    "SELECT pg_advisory_xact_lock(number) FROM unnest(CAST(:numbers AS bigint[])) AS number"
)
"""It takes the locks in the order of the array, all on one way to the server and back."""
_DATABASE_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())")


def lock(connection: Connection, subjects: Iterable[str]) -> bool:
    """Let no other gateway decide on these subjects until this transaction ends.

    Returns:
        False on SQLite, where this does nothing: a transaction that writes already holds the one
        write lock. True: others may have written while this waited.
    """
    if connection.dialect.name != "postgresql":
        return False
    numbers = {
        int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big", signed=True)
        for subject in subjects
    }
    # In one order everywhere, so that no two gateways deadlock.
    connection.execute(_ADVISORY_LOCKS, {"numbers": sorted(numbers)})
    return True


def clock(connection: Connection) -> float:
    """Seconds since 1970: by PostgreSQL's clock, which several machines share, or by this one's."""
    if connection.dialect.name != "postgresql":
        return time.time()
    return float(connection.execute(_DATABASE_CLOCK).scalar_one())


def clock_ms(connection: Connection) -> int:
    """As ``clock``, in milliseconds."""
    return int(clock(connection) * 1000)
