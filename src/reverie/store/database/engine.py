"""Opens the database that a store's URL names, and translates its exceptions.

Rule: a database's exceptions become ``StoreFailure`` here, in ``Store``, and nowhere else.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)

from reverie.errors import ConfigurationError, StoreFailure
from reverie.settings import StoreSettings
from reverie.store.database import known
from reverie.store.database.failures import reason_of
from reverie.store.database.prepared import sqlite_of
from reverie.store.database.timeouts import connection_class

_BEGIN_WRITING = "BEGIN IMMEDIATE"
"""It takes SQLite's lock at once: a transaction that began as a reader can't wait for it."""
_WAL_RETRY_DELAY = 0.01
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.01
"""Seconds between two tries for SQLite's lock, which grow with the wait."""
_UNHURRIED = 6 * 3600.0
"""Seconds that one statement may take where no request waits for it."""
_TRANSIENT = (OperationalError, InterfaceError, InternalError)
_TRANSIENT_SQLITE = (sqlite3.OperationalError, sqlite3.InterfaceError, sqlite3.InternalError)


class Store:
    """A database. Nothing is connected before the first transaction.

    Args:
        unhurried: its statements may take longer than ``store.timeout``: no request waits for them.
            Locks are still waited for that long only.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(self, settings: StoreSettings, *, unhurried: bool = False) -> None:
        self.settings = settings
        self.url = parse_url(settings.url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = (
            _connect_sqlite(self.url, settings)
            if self.is_sqlite
            else _connect_postgres(self.url, settings, unhurried=unhurried)
        )

    @contextmanager
    def write(self) -> Generator[Connection, None, None]:
        """One transaction that may write. It is committed at the end of the block.

        Raises:
            StoreFailure
        """
        with (
            self.translated(),
            self.engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def transactions(self) -> Transactions:
        """Transactions that may write, one after another on one connection."""
        return Transactions(self)

    @contextmanager
    def read(self) -> Generator[Connection, None, None]:
        """One transaction that only reads.

        Raises:
            StoreFailure
        """
        with self.translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def snapshot(self) -> Generator[Connection, None, None]:
        """One transaction that only reads, and sees the store as it was at its first read.

        Raises:
            StoreFailure
        """
        with self.translated(), self.engine.connect() as connection:
            if not self.is_sqlite:  # where every transaction is one
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            with connection.begin():
                yield connection

    def require_creatable(self) -> None:
        """Find out whether SQLite's file could be made, if there is none yet. Makes none.

        Raises:
            ConfigurationError: it couldn't.
        """
        if self.path is None or self.path.exists():
            return
        try:
            tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            raise _not_usable(f"{self.path} can't be made", error) from None

    def close(self) -> None:
        self.engine.dispose()

    @property
    def path(self) -> Path | None:
        """SQLite's file; None with PostgreSQL."""
        return Path(str(self.url.database)) if self.is_sqlite else None

    @contextmanager
    def translated(self) -> Generator[None, None, None]:
        """Raise SQLAlchemy's and SQLite's exceptions as ``StoreFailure``."""
        try:
            yield
        except sqlite3.Error as error:  # of a ``Prepared``, which asks SQLite itself
            transient = isinstance(error, _TRANSIENT_SQLITE)
            raise StoreFailure(reason_of(error, self.path), transient=transient) from error
        except DBAPIError as error:
            transient = error.connection_invalidated or isinstance(error, _TRANSIENT)
            reason = reason_of(error.orig, self.path)
            raise StoreFailure(reason, transient=transient) from error
        except SQLAlchemyError as error:
            raise StoreFailure(type(error).__name__) from error


class Transactions:
    """Writing transactions of one thread. They share a connection, until one of them fails.

    To lend a connection and take it back costs as much as a small transaction does.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection: Connection | None = None

    @contextmanager
    def next(self) -> Generator[Connection, None, None]:
        """As ``Store.write``."""
        with self._store.translated():
            connection = self._connection
            if connection is None:
                connection = self._store.engine.connect().execution_options(writes=True)
                self._connection = connection
                _set_busy_timeout(connection, 0.0)  # ``_begin_writing`` waits
            own = sqlite_of(connection)
            try:
                if own is None:
                    with connection.begin():
                        yield connection
                else:
                    _begin_writing(own, self._store.settings.timeout)
                    known.begin(connection, own)
                    yield connection
                    own.commit()
                    connection.commit()  # nothing, unless a statement of SQLAlchemy's joined in
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Give the connection back. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if not connection.invalidated:
                known.forget(connection)
                _set_busy_timeout(connection, self._store.settings.timeout)
            connection.close()


def _begin_writing(own: sqlite3.Connection, timeout: float) -> None:
    """Take SQLite's write lock, directly: SQLAlchemy's own way costs twice as much.

    SQLite itself would ask for it after 1, 2, 5, 10 ms and so on. Of two processes that write all
    the time, each would let the other wait, most of the time for nothing.
    """
    began = time.monotonic()
    while True:
        try:
            own.execute(_BEGIN_WRITING)
        except sqlite3.OperationalError as error:
            waited = time.monotonic() - began
            if not _is_busy(error) or waited >= timeout:
                raise
            time.sleep(min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, waited / 20)))
        else:
            return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _set_busy_timeout(connection: Connection, seconds: float) -> None:
    """Say for how long SQLite itself waits for another's lock."""
    own = sqlite_of(connection)
    if own is not None:
        own.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def parse_url(url: str) -> URL:
    """Check a store's URL.

    Raises:
        ConfigurationError
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            ["store.url: write sqlite:///FILE, postgresql://USER@HOST/DATABASE, or none"]
        )
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError(["store.url: sqlite needs a file: sqlite:///FILE"])
    return parsed


def _connect_sqlite(url: URL, settings: StoreSettings) -> Engine:
    assert url.database is not None
    folder = Path(url.database).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _not_usable(f"the folder {folder} can't be made", error) from None
    engine = create_engine(url, pool_size=8, max_overflow=8, pool_timeout=settings.timeout)
    synchronous = "FULL" if settings.durability == "power" else "NORMAL"

    def before_connect(*_: object) -> None:
        # SQLite would let all of the machine read it. One that is there is not opened: to close it
        # again would take SQLite's locks away.
        with contextlib.suppress(OSError):
            os.close(os.open(str(url.database), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # ``on_begin`` begins transactions
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(settings.timeout * 1000)}")
        _use_wal(cursor, settings.timeout)
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute("PRAGMA cache_size = -16000")  # KiB
        cursor.close()

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        own = sqlite_of(connection)
        assert own is not None
        if not own.in_transaction:  # as one of ``Transactions`` is, from its beginning on
            own.execute(_BEGIN_WRITING if writes else "BEGIN")

    event.listen(engine, "do_connect", before_connect)
    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _not_usable(what: str, error: OSError) -> ConfigurationError:
    advice = "name a place that can be written in store.url (REVERIE_STORE_URL), or none"
    return ConfigurationError([f"store.url: {what} ({error.strerror}); {advice}"])


def _use_wal(cursor: sqlite3.Cursor, timeout: float) -> None:
    """Switch a new file to WAL. SQLite doesn't wait for another connection that does the same."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_DELAY)
        else:
            return


def _connect_postgres(url: URL, settings: StoreSettings, *, unhurried: bool) -> Engine:
    milliseconds = int(settings.timeout * 1000)
    seconds = _UNHURRIED if unhurried else settings.timeout
    options = [
        f"-c statement_timeout={int(seconds * 1000)}",
        f"-c lock_timeout={milliseconds}",
        f"-c idle_in_transaction_session_timeout={int(2 * seconds * 1000)}",
    ]
    if settings.durability == "power":
        options.append("-c synchronous_commit=on")
    given = url.query.get("options")
    if isinstance(given, str):
        options.append(given)
    engine = create_engine(
        url.difference_update_query(["options"]),
        pool_size=8,
        max_overflow=8,
        pool_timeout=settings.timeout,
        connect_args={
            "connect_timeout": max(2, math.ceil(settings.timeout)),
            "tcp_user_timeout": milliseconds,
            "application_name": "reverie",
            "options": " ".join(options),
        },
    )
    # Longer than the server's own timeouts, whose errors say more about what took so long.
    bounded = connection_class(seconds + 1)
    event.listen(engine, "do_connect", lambda _, __, args, named: bounded.connect(*args, **named))
    return engine
