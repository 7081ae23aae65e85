"""A store → a backup, and back: on either database, from either.

Rule 1: a backup is the store at one moment, while gateways go on.

Rule 2: to restore is one transaction. It leaves the store as it was, or as the backup was.

Rule 3: nothing of what happened after the backup may be taken for something of the restored store.
Its gateways' numbers begin far above those that the lost time may have used, so that settlements
which gateways of that time left behind find no row of another request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import msgspec
from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Table,
    func,
    insert,
    select,
    text,
)

import reverie
from reverie.errors import UnusableBackup, UpkeepError
from reverie.store import gateways
from reverie.store.database import schema
from reverie.store.database.coordination import clock_ms
from reverie.store.database.engine import Store
from reverie.store.database.migrate import (
    VERSION_TABLE,
    exclusively,
    is_known,
    require_known,
    revision_of,
    upgrade,
)
from reverie.store.database.prepared import insert_into
from reverie.store.settlements import Settlement, settle
from reverie.store.upkeep.archive import (
    ArchiveReader,
    ArchiveWriter,
    Batch,
    Head,
    Summary,
    in_pieces,
    verify,
)

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of rows that were written since its last call."""

_JOURNAL = "journal"
"""Among a backup's tables: settlements that were in no store yet."""
_IN_USE = ("keys", "ledger", "usage_daily")
"""Tables that are empty in a store that was never used."""
_GATEWAYS_LEFT_OUT = 4096
"""More than are started in the time between a backup and its restore."""


def write_backup(
    store: Store, file: BinaryIO, journal: Sequence[Settlement], now: int, progress: Progress
) -> Summary:
    """Write a backup to a file that is open.

    Args:
        journal: settlements that were in journals before the backup began: they may be in the
            store or not.

    Raises:
        UpkeepError: there is nothing to back up.
        ConfigurationError: the store is newer than this program.
        StoreFailure, OSError
    """
    with store.snapshot() as connection:
        revision = revision_of(connection)
        require_known(revision)
        if revision is None:
            raise UpkeepError("the store is empty, so there is nothing to back up")
        head = Head(
            reverie_backup=1, revision=revision, created_at=now, version=reverie.__version__
        )
        writer = ArchiveWriter(file, head)
        for table in _tables(connection):
            # SQLAlchemy's names are of a type of its own.
            writer.begin(str(table.name), [str(column.name) for column in table.columns])
            rows = connection.execution_options(yield_per=1000).execute(select(table))
            for some in rows.partitions():
                writer.add([tuple(row) for row in some])
                progress(len(some))
    writer.begin(_JOURNAL, ["settlement"])
    for some_settlements in in_pieces(journal):
        writer.add([(msgspec.json.encode(one).decode(),) for one in some_settlements])
    return writer.end()


def count_rows(store: Store) -> int:
    """About how many rows a backup will have."""
    with store.read() as connection:
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in _tables(connection)
        )


def restore_backup(
    store: Store, file: BinaryIO, now: int, progress: Progress, *, replace: bool = False
) -> Summary:
    """Fill a store from a backup, and bring it to this version's schema.

    Args:
        file: can be read twice.
        replace: whether what is in the store may be lost.

    Raises:
        UnusableBackup
        UpkeepError: the store isn't empty, or gateways run on it.
        ConfigurationError: the store is newer than this program.
        StoreFailure, OSError
    """
    if (
        store.path is None or store.path.exists()
    ):  # a file is made once the backup is known to be whole
        with store.read() as connection:  # told at once; it may change until the transaction below
            _require_unused(connection, replace=replace)
    found = verify(file)
    if not is_known(found.head.revision):
        raise UnusableBackup(
            f"it is of a newer Reverie ({found.head.version}): its store had revision "
            f"{found.head.revision}, and this version knows those up to {schema.HEAD}; install "
            "that version"
        )
    with _values_understood(), exclusively(store) as connection:
        _keep_gateways_out(connection)
        _require_unused(connection, replace=replace)
        _drop_tables(connection)
        upgrade(connection, found.head.revision)
        journal = _load(connection, ArchiveReader(file), progress)
        upgrade(connection)
        _leave_out_numbers(connection, now)
        for some in in_pieces(journal):
            settle(connection, some)
    return found


@contextmanager
def _values_understood() -> Generator[None, None, None]:
    """Tell of values that no store holds: whoever made such a file also made its hash."""
    try:
        yield
    except (msgspec.MsgspecError, OverflowError):
        raise UnusableBackup("it holds values that can't be read; use another backup") from None


def _keep_gateways_out(connection: Connection) -> None:
    """Have none start until the transaction ends; SQLite lets nobody else write anyway."""
    if connection.dialect.name == "postgresql" and revision_of(connection) is not None:
        connection.execute(text("LOCK TABLE gateways IN ACCESS EXCLUSIVE MODE"))


def _require_unused(connection: Connection, *, replace: bool) -> None:
    revision = revision_of(connection)
    require_known(revision)
    if revision is None:
        return
    tables = {table.name: table for table in _tables(connection)}
    if running := gateways.running(connection, clock_ms(connection)):
        raise UpkeepError(
            f"{gateways.running_words(running)} on the store; stop every server that uses it first"
        )
    in_use = [name for name in _IN_USE if connection.execute(select(tables[name]).limit(1)).first()]
    if in_use and not replace:
        raise UpkeepError(
            "the store isn't empty; name another one in store.url, or give --replace to lose what "
            "is in it"
        )


def _tables(connection: Connection) -> list[Table]:
    """Reverie's tables that there are, as they are: an older store has others than this version."""
    found = MetaData()
    found.reflect(connection, only=lambda name, _: name in schema.metadata.tables)
    return [found.tables[name] for name in sorted(found.tables)]


def _drop_tables(connection: Connection) -> None:
    for table in _tables(connection):
        table.drop(connection)
    connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))


def _load(connection: Connection, reader: ArchiveReader, progress: Progress) -> list[Settlement]:
    """Write a backup's rows; return its journal."""
    tables = {table.name: table for table in _tables(connection)}
    inserts = {name: insert_into(table) for name, table in tables.items()}
    journal: list[Settlement] = []
    for batch in reader.batches():
        if batch.table == _JOURNAL:
            texts = msgspec.convert(batch.rows, list[tuple[str]])
            journal += [msgspec.json.decode(text, type=Settlement) for (text,) in texts]
            continue
        if batch.table not in tables:
            raise UnusableBackup("its tables aren't those of its revision; use another backup")
        row_type = _row_type(tables[batch.table], batch.columns)
        if batch.rows:
            parameters = _parameters(row_type, batch)
            inserts[batch.table].execute_many(connection, parameters)
            progress(len(batch.rows))
    return journal


def _parameters(row_type: Any, batch: Batch) -> list[dict[str, Any]]:
    rows = msgspec.convert(batch.rows, list[row_type])
    return [dict(zip(batch.columns, row, strict=True)) for row in rows]


def _row_type(table: Table, columns: Sequence[str]) -> Any:
    """What a table's rows are made of: SQLite itself would take a text for a number."""
    types = {column.name: _value_type(column) for column in table.columns}
    if len(columns) != len(types) or set(columns) != set(types):
        raise UnusableBackup("its tables aren't those of its revision; use another backup")
    return tuple[tuple(types[name] for name in columns)]  # type: ignore[misc]


def _value_type(column: Column[Any]) -> Any:
    kind = bytes if isinstance(column.type, LargeBinary) else column.type.python_type
    return kind | None if column.nullable else kind


def _leave_out_numbers(connection: Connection, now: int) -> None:
    """Rule 3: a gateway that never ran, with a number far above the others."""
    table = schema.gateways
    newest = connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()
    number = newest + _GATEWAYS_LEFT_OUT
    connection.execute(
        insert(table).values(
            id=number, process="restore", started_at=now, seen_at=now, ended_at=now
        )
    )
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT setval(pg_get_serial_sequence('gateways', 'id'), :number)"),
            {"number": number},
        )
