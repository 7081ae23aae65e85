"""Stores to measure with: one that is new, and one that has served for years."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy.dialects import sqlite

from reverie.settings import StoreSettings
from reverie.store import key_list, keys, usage
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.database.schema import ROWS_OF_A_GATEWAY
from reverie.store.keys import Key
from reverie.store.limits import RateLimits, period_begin
from reverie.times import DAY_MS, day_of, now_ms

DAYS = 90
_ACTIVE = 1000
_MODELS = 3
_TEAMS = 20
_KEY = "printf('key_%08x%08x', i * 2654435761 % 4294967296, i)"
"""The id of key i, in SQL: in no order, so that no two keys of a row are neighbours on disk."""


def make(file: Path, clients: int, *, all_keys: int = 0, rows: int = 0) -> list[str]:
    """Make a store with a key for each client, under limits that are looked at and never reached.

    Args:
        all_keys: how many keys there are in all; each has one of 20 tags.
        rows: closed rows of the ledger, of the first 1000 keys on 3 models, over 90 days.

    Returns:
        The clients' secrets.
    """
    store = Store(StoreSettings(url=f"sqlite:///{file}"))
    migrate(store)
    secrets = [keys.new_secret() for _ in range(clients)]
    with store.write() as connection:
        for number, secret in enumerate(secrets):
            key = Key(
                id=f"key_{number * 2654435761 % 2**32:08x}{number:08x}",
                name=f"client-{number}",
                created_at=now_ms(),
                limits=RateLimits(rpm=10_000_000, tpm=1_000_000_000),
            )
            keys.create(connection, key, secret)
    store.close()
    if all_keys > clients:
        _fill(file, clients, all_keys, rows)
    return secrets


def _fill(file: Path, clients: int, all_keys: int, rows: int) -> None:
    """Add keys, and a past to them, in SQL alone: ten million rows take a minute or two."""
    counting = "WITH RECURSIVE n(i) AS (SELECT {0} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {1})"
    today = now_ms() // DAY_MS * DAY_MS
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -500000")
    with connection:
        connection.execute(
            f"{counting.format(clients, all_keys)} "
            "INSERT INTO keys (id, name, hash, created_at, weight, rpm, tpm) "
            f"SELECT {_KEY}, 'client-' || i, randomblob(32), {today}, 1, 1000, 1000000 FROM n"
        )
        connection.execute(
            f"{counting.format(0, all_keys)} "
            f"INSERT INTO key_tags (key_id, tag) SELECT {_KEY}, 'team:' || i % {_TEAMS} FROM n"
        )
        connection.execute(
            "INSERT INTO gateways (id, process, started_at, seen_at, ended_at) "
            f"VALUES (1, 'earlier', 0, {today}, {today})"
        )
        connection.execute(
            f"{counting.format(0, rows)}, r AS (SELECT i AS row, i % {_ACTIVE} AS i, "
            f"{today} - {DAYS * DAY_MS} + i * {DAYS * DAY_MS} / {max(rows, 1)} AS at FROM n) "
            "INSERT INTO ledger (id, request_id, gateway_id, key_id, model, backend, "
            "reserved_tokens, reserved_cost, price_input, price_cached, price_output, currency, "
            "prompt_tokens, cached_tokens, completion_tokens, cost, estimated, outcome, "
            "created_at, first_token_at, ended_at) "
            f"SELECT {ROWS_OF_A_GATEWAY} + row + 1, 'req_' || lower(hex(randomblob(16))), 1, "
            f"{_KEY}, 'm' || row / {_ACTIVE} % {_MODELS}, '127.0.0.1:9100', 512, 92160, "
            "180, 180, 180, 'USD', 200, 0, 120, 57600, 0, 'ok', at, at + 90, at + 1500 FROM r"
        )
        connection.execute(
            "INSERT INTO usage_daily (key_id, day, model, currency, requests, cancelled, failed, "
            "lost, prompt_tokens, cached_tokens, completion_tokens, cost) "
            f"SELECT key_id, created_at / {DAY_MS}, model, currency, count(*), 0, 0, 0, "
            "sum(prompt_tokens), 0, sum(completion_tokens), sum(cost) "
            "FROM ledger GROUP BY 1, 2, 3, 4"
        )
    connection.close()


def ask_usage(file: Path, rounds: int) -> list[tuple[str, float, str]]:
    """Ask a store what was used.

    Returns:
        For each query: what it is, its median milliseconds, and how SQLite answers it.
    """
    now = now_ms()
    today = day_of(now)
    month = period_begin("month", now / 1000)
    store = Store(StoreSettings(url=f"sqlite:///{file}"))
    with store.read() as connection:
        busiest = key_list.listed(connection, now, limit=1).keys[0].id
    queries = {
        "by key, this month": usage.UsageQuery(since=month, until=today),
        "by key, a day": usage.UsageQuery(since=today - 1, until=today - 1),
        "by key, 90 days": usage.UsageQuery(since=today - DAYS, until=today),
        "by tag, this month": usage.UsageQuery(by=("tag",), since=month, until=today),
        "of one key, by model and day, 90 days": usage.UsageQuery(
            by=("model", "day"), since=today - DAYS, until=today, key=busiest
        ),
    }
    answers = []
    for name, query in queries.items():
        seconds = []
        with store.read() as connection:
            for _ in range(rounds):
                began = time.perf_counter()
                usage.groups(connection, query)
                seconds.append(time.perf_counter() - began)
            sql = usage.statement(query, query.key and (query.key,)).compile(
                dialect=sqlite.dialect(),
                compile_kwargs={"literal_binds": True},
            )
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")
            steps = "; ".join(str(step[3]) for step in plan)
        answers.append((name, sorted(seconds)[rounds // 2] * 1e3, steps))
    store.close()
    return answers
