"""The gateways that share a store: which of them live, and whose open rows are to be closed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from reverie.store import answers
from reverie.store.database import schema
from reverie.store.reserve import ANSWERS_KEPT_MS
from reverie.store.settle import close_lost

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two signs of life."""
DEAD_AFTER_MS = 15_000
"""A gateway that gave no sign of life for so long is given up; if it does live, its settlements
still count when they come."""
_WINDOWS_KEPT = 300
"""Seconds after which a limit's windows are swept out."""

_GATEWAYS = schema.gateways
_LEDGER = schema.ledger
_WINDOWS = schema.limit_windows


def register(connection: Connection, now: int) -> int:
    """Enter this process; give its number."""
    added = connection.execute(
        insert(_GATEWAYS).values(process=this_process(), started_at=now, seen_at=now)
    )
    (number,) = added.inserted_primary_key or (None,)
    assert isinstance(number, int)
    return number


def heartbeat(connection: Connection, gateway_id: int, now: int) -> None:
    """Give a sign of life."""
    connection.execute(
        update(_GATEWAYS).where(_GATEWAYS.c.id == gateway_id).values(seen_at=now, ended_at=None)
    )


def leave(connection: Connection, gateway_id: int, now: int) -> None:
    """End in order."""
    connection.execute(
        update(_GATEWAYS).where(_GATEWAYS.c.id == gateway_id).values(seen_at=now, ended_at=now)
    )


def reap_dead(connection: Connection, gateway_id: int, now: int) -> int:
    """Close what dead gateways left open, and sweep out old windows.

    Returns:
        How many rows were closed as lost.
    """
    closed = 0
    with_open_rows = select(_LEDGER.c.gateway_id).where(_LEDGER.c.outcome.is_(None)).distinct()
    others = connection.execute(
        select(_GATEWAYS)
        .where(
            _GATEWAYS.c.id != gateway_id,
            # One that ended may have left rows all the same, if the store was away at its end.
            _GATEWAYS.c.ended_at.is_(None) | _GATEWAYS.c.id.in_(with_open_rows),
        )
        .order_by(_GATEWAYS.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    for other in others:
        if now - other.seen_at > DEAD_AFTER_MS or _gone_from_here(other.process):
            closed += close_lost(connection, other.id, now)
            connection.execute(
                update(_GATEWAYS).where(_GATEWAYS.c.id == other.id).values(ended_at=now)
            )
    answers.sweep(connection, now - ANSWERS_KEPT_MS)
    connection.execute(delete(_WINDOWS).where(_WINDOWS.c.second < now // 1000 - _WINDOWS_KEPT))
    return closed


def this_process() -> str:
    """This process, in a form that another on the same host can look up."""
    return f"{_host()} {os.getpid()} {_started(os.getpid())}"


def _gone_from_here(process: str) -> bool:
    """Whether a process ran on this host and does not any more. False where that can't be told."""
    host, _, rest = process.rpartition(" ")[0].rpartition(" ")
    pid, started = rest, process.rpartition(" ")[2]
    if host != _host() or not pid.isdigit() or not started:
        return False
    return _started(int(pid)) != started


def _host() -> str:
    """This host's name, this boot of it, and its process numbers' namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = "unknown"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks: tells it from a later one of its number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone" if Path("/proc/self/stat").exists() else ""
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] in "ZX" else fields[19]
