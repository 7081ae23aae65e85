"""Statements that every request runs: written as SQL once, and not at each call.

SQLAlchemy looks a statement up, expands its lists and converts its values whenever it is executed.
For the few statements of the hot path, that is most of what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, Connection, CursorResult, Table, bindparam
from sqlalchemy.dialects import postgresql, sqlite

_Adapt: TypeAlias = Callable[[Mapping[str, Any]], Any]
_Build: TypeAlias = Callable[[str, Sequence[BindParameter[Any]]], Any]

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Prepared:
    """One statement. Its values, which no driver needs to have converted, are all parameters.

    Args:
        build: gives the statement, for the name of a database's dialect and the values of its list.
    """

    def __init__(self, build: _Build) -> None:
        self._build = build
        self._written: dict[tuple[str, int], tuple[str, _Adapt]] = {}

    def execute(
        self,
        connection: Connection,
        parameters: Mapping[str, Any] | None = None,
        listed: Sequence[Any] = (),
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run it once.

        Args:
            listed: the values of its list, if it has one; at least one of them.
        """
        width = 0
        if listed:
            # Padded, so that a database sees few different texts, whose plans it keeps.
            width = 1 << (len(listed) - 1).bit_length()
            padded = [*listed, *[listed[-1]] * (width - len(listed))]
            parameters = {**(parameters or {}), **dict(zip(_names(width), padded, strict=True))}
        sql, adapt = self._sql(connection, width)
        return connection.exec_driver_sql(sql, adapt(parameters or {}))

    def execute_many(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run it for each row of parameters; there is at least one."""
        sql, adapt = self._sql(connection, 0)
        connection.exec_driver_sql(sql, list(map(adapt, rows)))

    def _sql(self, connection: Connection, width: int) -> tuple[str, _Adapt]:
        """The text, and what turns parameters into its driver's."""
        key = (connection.dialect.name, width)
        written = self._written.get(key)
        if written is None:
            listed: list[BindParameter[Any]] = [bindparam(name) for name in _names(width)]
            statement = self._build(connection.dialect.name, listed)
            compiled = statement.compile(dialect=connection.dialect)
            written = self._written[key] = (str(compiled), _adapter(compiled.positiontup))
        return written


def upsert_into(dialect: str, table: Table) -> Any:
    """An insertion of all columns of a table, which can be told what to do about a conflict."""
    return _INSERT[dialect](table).values({c.name: bindparam(c.name) for c in table.c})


def _names(width: int) -> list[str]:
    return [f"listed_{number}" for number in range(width)]


def _adapter(places: list[str] | None) -> _Adapt:
    if places is None:  # this driver takes them by their names
        return lambda parameters: parameters
    if len(places) == 1:
        return lambda parameters: (parameters[places[0]],)
    return itemgetter(*places)
