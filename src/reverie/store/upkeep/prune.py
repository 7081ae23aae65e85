"""Removes what is old from a store, a little at a time, so that no request waits for it.

Rule 1: no report, no limit and no budget changes. They are made of the daily sums, of the last
minute's windows and of open rows, none of which is removed here.

Rule 2: a row of the ledger stays while anything may still ask for it: while it is open, while an
answer is kept for its ``Idempotency-Key``, and for ``LEAST_KEPT_DAYS`` (settings) for a settlement
that comes late.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from msgspec import Struct
from sqlalchemy import BigInteger, Connection, and_, cast, delete, func, literal, select
from sqlalchemy.sql.elements import ColumnElement

from reverie.errors import UpkeepError
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.schema import ROWS_OF_A_GATEWAY

BATCH = 500
"""Rows that one transaction looks at."""

_LEDGER = schema.ledger
_GATEWAYS = schema.gateways
_KEYS = schema.keys
_TAGS = schema.key_tags
_USAGE = schema.usage_daily
_ANSWERS = schema.answers
_EMPTY_WAL = "PRAGMA wal_checkpoint(TRUNCATE)"
_SLACK_MS = 3_600_000
"""By how much the times of a gateway's rows may be out of the order of their numbers."""


class Prunable(Struct, frozen=True):
    """What a moment makes old."""

    requests: int
    keys: int
    gateways: int


class RequestPruner:
    """Removes the requests from before a moment; one walk over the ledger, gateway by gateway.

    A gateway's rows are numbered in the order in which they were opened, so that only the old ones
    are read, and one page of those that stay.
    """

    def __init__(self, store: Store, before: int) -> None:
        self._store = store
        self._before = before
        self._next = 0

    def step(self) -> int | None:
        """Remove some; give their number. None: there is nothing left."""
        with self._store.read() as connection:
            page = connection.execute(
                select(_LEDGER.c.id, _LEDGER.c.created_at)
                .where(_LEDGER.c.id >= self._next)
                .order_by(_LEDGER.c.id)
                .limit(BATCH)
            ).all()
        if not page:
            return None
        first = page[0].id
        next_gateway = (first // ROWS_OF_A_GATEWAY + 1) * ROWS_OF_A_GATEWAY
        page = [row for row in page if row.id < next_gateway]
        last = page[-1]
        newer = last.created_at >= self._before + _SLACK_MS
        self._next = next_gateway if newer else last.id + 1
        if all(row.created_at >= self._before for row in page):
            return 0
        with self._store.write() as connection:
            return connection.execute(
                delete(_LEDGER).where(
                    _LEDGER.c.id >= first, _LEDGER.c.id <= last.id, _old_request(self._before)
                )
            ).rowcount


def prune_keys(store: Store, before: int) -> int:
    """Remove some of the keys that ended before a moment and that no report names."""
    with store.write() as connection:
        keys.lock_names(connection)
        ids = connection.scalars(select(_KEYS.c.id).where(_old_key(before)).limit(BATCH)).all()
        connection.execute(delete(_TAGS).where(_TAGS.c.key_id.in_(ids)))
        connection.execute(delete(_KEYS).where(_KEYS.c.id.in_(ids)))
    return len(ids)


def prune_gateways(store: Store, before: int) -> int:
    """Forget gateways that ended before a moment and of which no request is left."""
    with store.write() as connection:
        return connection.execute(delete(_GATEWAYS).where(_old_gateway(before))).rowcount


def prunable(connection: Connection, requests_before: int, keys_before: int) -> Prunable:
    """How much would be removed."""
    counts = [
        connection.execute(select(func.count()).select_from(table).where(old)).scalar_one()
        for table, old in (
            (_LEDGER, _old_request(requests_before)),
            (_KEYS, _old_key(keys_before)),
            (_GATEWAYS, _old_gateway(requests_before)),
        )
    ]
    return Prunable(*counts)


def _old_request(before: int) -> ColumnElement[bool]:
    kept = select(_ANSWERS.c.ledger_id).where(_ANSWERS.c.ledger_id == _LEDGER.c.id).exists()
    return and_(_LEDGER.c.created_at < before, _LEDGER.c.outcome.is_not(None), ~kept)


def _old_key(before: int) -> ColumnElement[bool]:
    """A key whose removal changes no report. The newest stays: without a key, none is needed."""
    other = _KEYS.alias()
    newest = select(other.c.id).order_by(other.c.created_at.desc(), other.c.id.desc()).limit(1)
    used = select(_USAGE.c.day).where(_USAGE.c.key_id == _KEYS.c.id).exists()
    open_row = _LEDGER.c.outcome.is_(None)
    running = select(_LEDGER.c.id).where(_LEDGER.c.key_id == _KEYS.c.id, open_row).exists()
    ended = (_KEYS.c.revoked_at < before) | (_KEYS.c.expires_at < before)
    return and_(ended, _KEYS.c.id != newest.scalar_subquery(), ~used, ~running)


def _old_gateway(before: int) -> ColumnElement[bool]:
    """A gateway that is gone. The newest stays: SQLite would give its number to the next one."""
    other = _GATEWAYS.alias()
    newest = select(func.max(other.c.id)).scalar_subquery()
    first = cast(_GATEWAYS.c.id, BigInteger) * literal(ROWS_OF_A_GATEWAY, BigInteger)
    rows = select(_LEDGER.c.id).where(
        _LEDGER.c.id >= first, _LEDGER.c.id < first + literal(ROWS_OF_A_GATEWAY, BigInteger)
    )
    return and_(_GATEWAYS.c.ended_at < before, _GATEWAYS.c.id != newest, ~rows.exists())


def require_file(store: Store) -> Path:
    """SQLite's file.

    Raises:
        UpkeepError: the database is PostgreSQL.
    """
    if store.path is None:
        raise UpkeepError("PostgreSQL gives space back by itself (autovacuum); leave --vacuum out")
    return store.path


def give_space_back(store: Store) -> int:
    """Make SQLite's file as small as it can be. Nobody can write to the store meanwhile.

    Returns:
        By how many bytes it got smaller.

    Raises:
        UpkeepError: the database is PostgreSQL.
        StoreFailure
    """
    path = require_file(store)
    with store.translated():
        connection = sqlite3.connect(path, timeout=store.settings.timeout, isolation_level=None)
        try:
            connection.execute(_EMPTY_WAL)  # or the file isn't yet as large as it would get
            before = path.stat().st_size
            connection.execute("VACUUM")
            connection.execute(_EMPTY_WAL)
        finally:
            connection.close()
    return before - path.stat().st_size
