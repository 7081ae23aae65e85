"""Brings a store to this version's schema, at start."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from reverie.errors import ConfigurationError, StoreFailure
from reverie.store.database.engine import Store
from reverie.store.database.schema import HEAD

_VERSION_TABLE = "alembic_version"
_LOCK = 0x5245564552494500
"""The number of the advisory lock under which PostgreSQL lets one gateway migrate ("REVERIE")."""


def migrate(store: Store) -> None:
    """Run the migrations that are missing, once however many gateways start together.

    Raises:
        ConfigurationError: the store is newer than this program.
        StoreFailure: the database can't be reached or used.
    """
    if _version(store) == HEAD:
        return
    with _exclusively(store), store.write() as connection:
        if not store.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        _upgrade(connection)


def is_current(store: Store) -> bool:
    """True if the store exists and needs no migration. Creates nothing.

    Raises:
        StoreFailure: the database can't be reached or used.
    """
    if store.path is not None and not os.path.exists(store.path):
        return False
    return _version(store) == HEAD


def _version(store: Store) -> str | None:
    with store.read() as connection:
        if not inspect(connection).has_table(_VERSION_TABLE):
            return None
        version: str | None = connection.execute(
            text(f"SELECT version_num FROM {_VERSION_TABLE}")
        ).scalar()
        return version


def _upgrade(connection: Connection) -> None:
    # Imported here: it takes half a second, and a store that is up to date needs none of it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise ConfigurationError(
            ["store.url: this store was made by a newer Reverie; upgrade this one"]
        ) from None


@contextmanager
def _exclusively(store: Store) -> Generator[None, None, None]:
    """Let one process at a time migrate a SQLite file, whose own lock can't be held that long."""
    if store.path is None:
        yield
        return
    try:
        file = Path(f"{store.path}.lock").open("w")  # noqa: SIM115
    except OSError as error:
        raise StoreFailure(f"{error.filename} can't be written: {error.strerror}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
