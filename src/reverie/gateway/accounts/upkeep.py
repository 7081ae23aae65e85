"""What the command line does to a store as a whole: backup, restore, removal of what is old, and
the move to a newer schema. Servers may run meanwhile, unless it says otherwise."""

from __future__ import annotations

from typing import BinaryIO

from msgspec import Struct

from reverie.errors import UpkeepError
from reverie.gateway.accounts.journal import directory, entries
from reverie.gateway.accounts.store import Store
from reverie.store import gateways
from reverie.store.database import migrate as migrations
from reverie.store.database.coordination import clock_ms
from reverie.store.database.migrate import Migration as Migration
from reverie.store.database.migrate import migrate as migrate
from reverie.store.database.migrate import plan as plan
from reverie.store.database.migrate import revision as revision
from reverie.store.database.schema import HEAD as HEAD
from reverie.store.gateways import running_words as running_words
from reverie.store.upkeep import backup as backups
from reverie.store.upkeep import prune
from reverie.store.upkeep.archive import Summary as Summary
from reverie.store.upkeep.archive import verify as verify
from reverie.store.upkeep.backup import Progress, restore_backup
from reverie.store.upkeep.backup import count_rows as count_rows
from reverie.store.upkeep.files import new_file as new_file
from reverie.store.upkeep.prune import Prunable as Prunable
from reverie.store.upkeep.prune import RequestPruner, prunable
from reverie.times import DAY_MS, now_ms


def back_up(store: Store, file: BinaryIO, progress: Progress) -> Summary:
    """Write a backup of the store, and of the settlements that are in this machine's journals.

    Raises:
        UpkeepError, ConfigurationError, StoreFailure, OSError
    """
    # The journals first: what leaves one after that is in the store by then.
    journal = entries(directory(store.settings.url))
    return backups.write_backup(store, file, journal, now_ms(), progress)


def restore(store: Store, file: BinaryIO, progress: Progress, *, replace: bool) -> Summary:
    """Fill the store from a backup.

    Raises:
        UpkeepError, ConfigurationError, StoreFailure, OSError
    """
    return restore_backup(store, file, now_ms(), progress, replace=replace)


class Ages(Struct, frozen=True):
    """From which age on things are old, in days; None: never."""

    requests: int | None
    keys: int | None

    def moments(self) -> tuple[int, int]:
        """The moments before which requests, and keys, are old."""
        return _moment(self.requests), _moment(self.keys)


def _moment(days: int | None) -> int:
    return 0 if days is None else now_ms() - days * DAY_MS


def count_old(store: Store, ages: Ages) -> Prunable:
    """How much ``remove_old`` would remove.

    Raises:
        StoreFailure
    """
    with store.read() as connection:
        return prunable(connection, *ages.moments())


def remove_old(store: Store, ages: Ages, progress: Progress) -> Prunable:
    """Remove what is old, in small steps. What a step removed is gone, whatever comes after it.

    Raises:
        StoreFailure
    """
    requests_before, keys_before = ages.moments()
    pruner = RequestPruner(store, requests_before)
    requests = 0
    while (removed := pruner.step()) is not None:
        requests += removed
        progress(removed)
    keys = 0
    while removed := prune.prune_keys(store, keys_before):
        keys += removed
    return Prunable(requests, keys, prune.prune_gateways(store, requests_before))


def require_stopped(store: Store) -> None:
    """Refuse to give space back where others would wait for it, or it can't be done.

    Raises:
        UpkeepError: gateways run on the store, or it is no file.
        StoreFailure
    """
    prune.require_file(store)
    if number := running_gateways(store):
        raise UpkeepError(
            "--vacuum lets nobody write to the store meanwhile, and "
            f"{gateways.running_words(number)} on it; stop every server first, or leave it out: "
            "new rows take the space that old ones leave"
        )


def give_space_back(store: Store) -> int:
    """Give the space that removed rows took back to the disk; return the bytes.

    Raises:
        UpkeepError: as ``require_stopped``.
        StoreFailure
    """
    require_stopped(store)
    return prune.give_space_back(store)


def running_gateways(store: Store) -> int:
    """How many gateways run on the store; it has any revision.

    Raises:
        StoreFailure
    """
    with store.read() as connection:
        if migrations.revision_of(connection) is None:
            return 0
        return gateways.running(connection, clock_ms(connection))
