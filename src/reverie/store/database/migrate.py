"""Brings a store to this version's schema, at start or by command, and says what that would do.

Rule: there is no way back to an older schema. A store that is newer than the program is refused.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from sqlalchemy import Connection, func, inspect, select, table, text

from reverie.errors import ConfigurationError, StoreFailure
from reverie.log import fields
from reverie.store.database.engine import Store
from reverie.store.database.failures import why_not_opened
from reverie.store.database.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

logger = logging.getLogger("reverie.store")

VERSION_TABLE = "alembic_version"
"""The table that holds a store's revision."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x5245564552494500
"""The number of the advisory lock under which PostgreSQL lets one gateway migrate ("REVERIE")."""
_READ_PER_SECOND = 300_000
_REWRITTEN_PER_SECOND = 50_000
"""Rows; low, so that an estimate is rather too long."""


class Migration(Struct, frozen=True):
    """One migration that is to be run."""

    revision: str
    what: str
    reads: dict[str, int]
    """Tables that are read whole, as for an index, and their rows. They can't be written to
    meanwhile."""
    rewrites: dict[str, int]
    """Tables whose rows are written anew, and their rows."""

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        read, rewritten = sum(self.reads.values()), sum(self.rewrites.values())
        return read / _READ_PER_SECOND + rewritten / _REWRITTEN_PER_SECOND


def migrate(store: Store) -> str | None:
    """Run the migrations that are missing, once however many gateways start together.

    Returns:
        The revision that the store had before; None: it was empty.

    Raises:
        ConfigurationError: the store is newer than this program.
        StoreFailure: the database can't be reached or used.
    """
    before = revision(store)
    if before == HEAD:
        return before
    began = time.monotonic()
    unhurried = Store(store.settings, unhurried=True)
    try:
        with exclusively(unhurried) as connection:
            before = revision_of(connection)
            upgrade(connection)
    finally:
        unhurried.close()
    if before not in (None, HEAD):
        seconds = round(time.monotonic() - began, 1)
        told = {"from_revision": before, "to_revision": HEAD, "seconds": seconds}
        logger.info("the store was migrated", extra=fields(**told))
    return before


def is_current(store: Store) -> bool:
    """True if the store exists and needs no migration. Creates nothing.

    Raises:
        ConfigurationError: the store is newer than this program.
        StoreFailure: the database can't be reached or used.
    """
    return revision(store) == HEAD


def revision(store: Store) -> str | None:
    """The store's revision; None: it doesn't exist, or is empty. Creates nothing.

    Raises:
        ConfigurationError: the store is newer than this program.
        StoreFailure: the database can't be reached or used.
    """
    if store.path is not None and not os.path.exists(store.path):
        return None
    with store.read() as connection:
        found = revision_of(connection)
    require_known(found)
    return found


def revision_of(connection: Connection) -> str | None:
    """As ``revision``, whether this program knows it or not."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(
        text(f"SELECT version_num FROM {VERSION_TABLE}")
    ).scalar()
    return found


def is_known(revision: str) -> bool:
    """True if this program has the migrations that lead to a revision."""
    return any(file.name.startswith(f"{revision}_") for file in _MIGRATIONS.glob("versions/*.py"))


def require_known(revision: str | None) -> None:
    """Refuse a store that is newer than this program.

    Raises:
        ConfigurationError
    """
    if revision is not None and not is_known(revision):
        raise ConfigurationError(
            [
                f"store.url: this store was made by a newer Reverie: it has revision {revision}, "
                f"and this version knows those up to {HEAD}. Install the newer version again, or "
                "restore a backup from before its upgrade into an empty store"
            ]
        )


def plan(store: Store) -> list[Migration]:
    """The migrations that ``migrate`` would run. Writes nothing.

    Raises:
        ConfigurationError: the store is newer than this program.
        StoreFailure: the database can't be reached or used.
    """
    from alembic.script import ScriptDirectory

    before = revision(store)
    if before is None:
        return []
    scripts = ScriptDirectory.from_config(_configuration())
    missing = reversed(list(scripts.iterate_revisions(HEAD, before)))
    with store.read() as connection:
        return [
            Migration(
                script.revision,
                script.doc,
                _sizes(connection, script.module.reads),
                _sizes(connection, script.module.rewrites),
            )
            for script in missing
        ]


def _sizes(connection: Connection, tables: tuple[str, ...]) -> dict[str, int]:
    return {
        name: connection.execute(select(func.count()).select_from(table(name))).scalar_one()
        for name in tables
        if inspect(connection).has_table(name)
    }


def upgrade(connection: Connection, to: str = HEAD) -> None:
    """Run the migrations up to a revision, in the transaction of ``exclusively``.

    Raises:
        ConfigurationError: the store is newer than this program.
    """
    # Imported here: it takes half a second, and a store that is up to date needs none of it.
    from alembic import command

    require_known(revision_of(connection))
    config = _configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _configuration() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@contextmanager
def exclusively(store: Store) -> Generator[Connection, None, None]:
    """A transaction in which nobody else changes the schema.

    Raises:
        StoreFailure
    """
    with _file_lock(store), store.write() as connection:
        if not store.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection


@contextmanager
def _file_lock(store: Store) -> Generator[None, None, None]:
    """Let one process at a time migrate a SQLite file, whose own lock can't be held that long."""
    if store.path is None:
        yield
        return
    try:
        file = Path(f"{store.path}.lock").open("w")  # noqa: SIM115
    except OSError:
        raise StoreFailure(f"{store.path} {why_not_opened(store.path)}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
