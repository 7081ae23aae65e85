"""Stores of any revision, with rows in every table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Connection, Integer, LargeBinary, MetaData, Table, insert, select

from reverie.store.database import migrate, schema
from reverie.store.database.engine import Store

REVISIONS = sorted(
    file.name.partition("_")[0]
    for file in (Path(migrate.__file__).parent / "migrations/versions").glob("*.py")
)


def make(store: Store, revision: str, rows: int = 7) -> None:
    """Bring an empty store to a revision, and put rows into every table that it has then."""
    with migrate.exclusively(store) as connection:
        migrate.upgrade(connection, revision)
        for table in tables_of(connection).values():
            connection.execute(insert(table), [_row(table, number) for number in range(1, rows)])


def tables_of(connection: Connection) -> dict[str, Table]:
    """Reverie's tables, as they are in the database."""
    found = MetaData()
    found.reflect(connection, only=lambda name, _: name in schema.metadata.tables)
    return dict(found.tables)


def contents(store: Store) -> dict[str, tuple[Sequence[str], list[tuple[Any, ...]]]]:
    """Table → its columns, and its rows in an order that both databases have."""
    with store.read() as connection:
        return {
            name: (
                [str(column.name) for column in table.columns],
                sorted((tuple(row) for row in connection.execute(select(table))), key=repr),
            )
            for name, table in sorted(tables_of(connection).items())
        }


def _row(table: Table, number: int) -> dict[str, Any]:
    """Values of every kind: nulls, and bytes and texts that JSON or zstd might trip over."""
    row: dict[str, Any] = {}
    for place, column in enumerate(table.columns):
        if column.nullable and (number + place) % 3 == 0:
            value: Any = None
        elif isinstance(column.type, LargeBinary):
            value = bytes(range(number, 256)) * number
        elif isinstance(column.type, Boolean):
            value = number % 2 == 0
        elif isinstance(column.type, Integer):
            value = number if column.primary_key else 1000 * number + place
        else:
            value = f'{column.name} {number} "\\ \n é 🙂'
        row[str(column.name)] = value
    return row | _MEANT.get(table.name, {})


_MEANT: dict[str, dict[str, Any]] = {
    "gateways": {"ended_at": 5},
    "keys": {"models": None, "model_limits": None, "budget_period": None},
    "ledger": {"outcome": "ok"},
}
"""Values that are read for what they mean."""
