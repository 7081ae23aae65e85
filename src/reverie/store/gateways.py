"""The gateways that share a store: which of them are alive, and whose open rows must be closed.

Rule: each ``now`` is by the store's clock (``coordination.clock_ms``). Gateways whose own clocks
are some seconds apart would take each other for dead.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, func, insert, select, update

from reverie.store import answers, windows
from reverie.store.answers import ANSWERS_KEPT_MS
from reverie.store.database import schema
from reverie.store.settlements import close_lost

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two heartbeats."""
DEAD_AFTER_MS = 15_000
"""A gateway without a heartbeat for so long counts as dead. If it is alive after all, its
settlements still count when they come."""
DOUBT_AFTER_MS = DEAD_AFTER_MS * 2 // 3
"""A gateway that was itself silent for so long judges no other's silence for ``DEAD_AFTER_MS``: the
store was down, the machine asleep or its clock set, and for the others as well."""
_FORGOTTEN_AFTER_MS = 60_000
"""Age of an open row that nobody holds, from which on it isn't just being opened."""

_GATEWAYS = schema.gateways
_LEDGER = schema.ledger


def register(connection: Connection, now: int) -> int:
    """Add this process; return its number."""
    added = connection.execute(
        insert(_GATEWAYS).values(process=this_process(), started_at=now, seen_at=now)
    )
    (number,) = added.inserted_primary_key or (None,)
    assert isinstance(number, int)
    return number


def heartbeat(connection: Connection, gateway_id: int, now: int) -> None:
    """Say that a gateway is alive."""
    connection.execute(
        update(_GATEWAYS).where(_GATEWAYS.c.id == gateway_id).values(seen_at=now, ended_at=None)
    )


def leave(connection: Connection, gateway_id: int, now: int) -> None:
    """Say that a gateway has shut down cleanly."""
    connection.execute(
        update(_GATEWAYS).where(_GATEWAYS.c.id == gateway_id).values(seen_at=now, ended_at=now)
    )


def reap_dead(connection: Connection, gateway_id: int, now: int, *, by_silence: bool = True) -> int:
    """Close the rows that dead gateways left open; delete old answers and windows.

    Args:
        by_silence: whether one counts as dead that hasn't been heard of for long, or only one that
            is known to be gone.

    Returns:
        The number of rows that were closed as lost.
    """
    closed = 0
    with_open_rows = select(_LEDGER.c.gateway_id).where(_LEDGER.c.outcome.is_(None)).distinct()
    others = connection.execute(
        select(_GATEWAYS)
        .where(
            _GATEWAYS.c.id != gateway_id,
            # A gateway that ended may have left open rows too, if the store was down at its end.
            _GATEWAYS.c.ended_at.is_(None) | _GATEWAYS.c.id.in_(with_open_rows),
        )
        .order_by(_GATEWAYS.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    for other in others:
        silent = by_silence and now - other.seen_at > DEAD_AFTER_MS
        if silent or _gone_from_here(other.process):
            closed += close_lost(connection, other.id, now)
            connection.execute(
                update(_GATEWAYS).where(_GATEWAYS.c.id == other.id).values(ended_at=now)
            )
    answers.sweep(connection, now - ANSWERS_KEPT_MS)
    windows.sweep(connection, now // 1000)
    return closed


def close_forgotten(
    connection: Connection, gateway_id: int, held: Collection[int], now: int
) -> int:
    """Close rows of one's own that are open although nobody holds them.

    A store that is slow may have opened a row after its request had been told that it failed.

    Args:
        held: rows whose requests run, or whose settlements are on their way.

    Returns:
        The number of rows that were closed as lost. A settlement that comes after all still counts.
    """
    opened = select(_LEDGER.c.id).where(
        _LEDGER.c.gateway_id == gateway_id,
        _LEDGER.c.outcome.is_(None),
        _LEDGER.c.created_at < now - _FORGOTTEN_AFTER_MS,
    )
    forgotten = set(connection.scalars(opened)).difference(held)
    return close_lost(connection, gateway_id, now, among=forgotten) if forgotten else 0


def running(connection: Connection, now: int) -> int:
    """How many gateways run on the store, as far as anybody can tell."""
    seen = connection.execute(
        select(_GATEWAYS.c.process).where(
            _GATEWAYS.c.ended_at.is_(None), _GATEWAYS.c.seen_at >= now - DEAD_AFTER_MS
        )
    )
    return sum(not _gone_from_here(process) for process in seen.scalars())


def running_words(number: int) -> str:
    """The beginning of a sentence on the gateways that run."""
    return "one gateway runs" if number == 1 else f"{number} gateways run"


def is_first(connection: Connection, gateway_id: int, now: int) -> bool:
    """True for one of the gateways that run on the store: that which started first."""
    earlier = select(_GATEWAYS.c.id).where(
        _GATEWAYS.c.id < gateway_id,
        _GATEWAYS.c.ended_at.is_(None),
        _GATEWAYS.c.seen_at >= now - DEAD_AFTER_MS,
    )
    return connection.execute(earlier.limit(1)).first() is None


def last_sign_of_another(connection: Connection, gateway_id: int) -> int | None:
    """When any other gateway was last seen, running or not; None: there never was another."""
    seen = select(func.max(_GATEWAYS.c.seen_at)).where(_GATEWAYS.c.id != gateway_id)
    found: int | None = connection.execute(seen).scalar()
    return found


def this_process() -> str:
    """This process, named so that another one on the same host can look it up."""
    return f"{_host()} {os.getpid()} {_started(os.getpid())}"


def _gone_from_here(process: str) -> bool:
    """True if a process ran on this host and is gone; False as well where nobody can tell."""
    host, pid, started = [*process.rsplit(" ", 2), "", ""][:3]
    if host != _host() or not pid.isdigit() or not started:
        return False
    return _started(int(pid)) != started


def _host() -> str:
    """This host's name, its current boot, and the namespace of its process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = "unknown"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks: tells it from a later one of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone" if Path("/proc/self/stat").exists() else ""
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] in "ZX" else fields[19]
