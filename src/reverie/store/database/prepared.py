"""Statements that every request runs, compiled to SQL once.

SQLAlchemy looks up a statement in its cache, expands its lists, converts its values and wraps its
rows at each execution. The few statements of the hot path are spared that.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import BindParameter, Connection, Table, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

_Adapt: TypeAlias = Callable[[Mapping[str, Any]], Any]
_Build: TypeAlias = Callable[[str, Sequence[BindParameter[Any]]], Any]

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class _Written(NamedTuple):
    sql: str
    adapt: _Adapt
    """Turns parameters into the shape that the driver takes."""
    row: Callable[[Iterable[Any]], Any] | None
    """Makes a row of SQLite's, with its columns' names; None if the statement gives none."""


class Prepared:
    """One statement. All its values are parameters, of types that drivers take as they are.

    SQLite's driver gets it directly. With PostgreSQL it passes through SQLAlchemy, which knows when
    a connection has died.

    Args:
        build: makes the statement, given the name of SQLAlchemy's dialect and the parameters that
            stand for the values of its list.
    """

    def __init__(self, build: _Build) -> None:
        self._build = build
        self._written: dict[tuple[str, int], _Written] = {}

    def execute(
        self,
        connection: Connection,
        parameters: Mapping[str, Any] | None = None,
        listed: Sequence[Any] = (),
    ) -> Sequence[Any]:
        """Run it once; give its rows, whose columns are attributes.

        Args:
            listed: the values of its list, at least one, if it has a list.
        """
        width = 0
        if listed:
            # Padded, so that the database sees few different texts: it caches a plan for each.
            width = 1 << (len(listed) - 1).bit_length()
            padded = [*listed, *[listed[-1]] * (width - len(listed))]
            parameters = {**(parameters or {}), **dict(zip(_names(width), padded, strict=True))}
        sql, adapt, row = self._write(connection, width)
        sqlite_connection = sqlite_of(connection)
        if sqlite_connection is None:
            return connection.exec_driver_sql(sql, adapt(parameters or {})).all()
        found = sqlite_connection.execute(sql, adapt(parameters or {}))
        return [] if row is None else list(map(row, found.fetchall()))

    def execute_many(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run it once for each row of parameters; there is at least one row."""
        sql, adapt, _ = self._write(connection, 0)
        sqlite_connection = sqlite_of(connection)
        if sqlite_connection is None:
            connection.exec_driver_sql(sql, list(map(adapt, rows)))
        else:
            sqlite_connection.executemany(sql, list(map(adapt, rows)))

    def _write(self, connection: Connection, width: int) -> _Written:
        key = (connection.dialect.name, width)
        written = self._written.get(key)
        if written is None:
            listed: list[BindParameter[Any]] = [bindparam(name) for name in _names(width)]
            statement = self._build(connection.dialect.name, listed)
            compiled = statement.compile(dialect=connection.dialect)
            columns = list(statement.selected_columns.keys()) if statement.is_select else []
            row: Any = namedtuple("Row", columns) if columns else None
            written = _Written(str(compiled), _adapter(compiled.positiontup), row and row._make)
            self._written[key] = written
        return written


def sqlite_of(connection: Connection) -> sqlite3.Connection | None:
    """SQLite's own connection; None if the database is another."""
    if connection.dialect.name != "sqlite":
        return None
    own: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    return own


def insert_into(table: Table, **constants: ColumnElement[Any]) -> Prepared:
    """An INSERT of all columns of a table.

    Args:
        constants: what columns hold, in SQL, that are alike in all rows.
    """
    return Prepared(lambda dialect, _: _insert(dialect, table, constants))


def add_into(table: Table) -> Prepared:
    """An INSERT that adds to the row with the same primary key, in all other columns."""

    def build(dialect: str, _: object) -> Any:
        statement = _insert(dialect, table, {})
        sums = {c.name: c + statement.excluded[c.name] for c in table.c if not c.primary_key}
        return statement.on_conflict_do_update(index_elements=table.primary_key, set_=sums)

    return Prepared(build)


def _insert(dialect: str, table: Table, constants: Mapping[str, ColumnElement[Any]]) -> Any:
    values = {c.name: constants.get(c.name, bindparam(c.name)) for c in table.c}
    return _INSERT[dialect](table).values(values)


def _names(width: int) -> list[str]:
    return [f"listed_{number}" for number in range(width)]


def _adapter(places: list[str] | None) -> _Adapt:
    if places is None:  # this driver takes parameters by name
        return lambda parameters: parameters
    if len(places) == 1:
        return lambda parameters: (parameters[places[0]],)
    return itemgetter(*places)
