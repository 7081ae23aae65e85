"""How much room there is where this server writes, measured without holding anything up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reverie import background
from reverie.errors import ConfigurationError, ModelError
from reverie.gateway import metric_names
from reverie.gateway.tallies import gauge, value_of
from reverie.models.store import directory
from reverie.paths import state_directory
from reverie.threads import run_in_daemon_thread

_PATIENCE = 1.0
"""Seconds for a disk to answer; a file server that is gone never does."""


class DiskMetrics(Collector):
    """The disks of this server's folders, and the size of its store.

    Args:
        store: SQLite's file; None: the store isn't one.
    """

    def __init__(self, store: Path | None) -> None:
        self._store = store
        self._folders = _folders(store)
        self._measuring: asyncio.Task[None] | None = None
        self._disks: Mapping[str, tuple[int, int]] = {}
        self._store_size: int | None = None

    async def measure(self) -> None:
        """Measure anew. A disk that doesn't answer in time leaves what was known last."""
        if self._measuring is None or self._measuring.done():
            # A thread that hangs must not keep the process from its end.
            measure = partial(run_in_daemon_thread, self._measure)
            self._measuring = background.once("disk metrics", measure)
        await asyncio.wait({self._measuring}, timeout=_PATIENCE)

    def _measure(self) -> None:
        self._disks = {
            name: room for name, folder in self._folders.items() if (room := _room(folder))
        }
        if self._store is not None:
            parts = [self._store, self._store.with_name(f"{self._store.name}-wal")]
            self._store_size = sum(_size(part) for part in parts)

    def collect(self) -> Iterable[Metric]:
        free, size = gauge(metric_names.DISK_FREE), gauge(metric_names.DISK_SIZE)
        for name, (available, whole) in self._disks.items():
            free.add_metric([name], available)
            size.add_metric([name], whole)
        yield from (free, size)
        if self._store_size is not None:
            yield value_of(metric_names.STORE_SIZE, self._store_size)


def _folders(store: Path | None) -> dict[str, Path]:
    found = {} if store is None else {"store": store.absolute().parent}
    for name, folder in (("state", state_directory), ("models", directory)):
        try:
            found[name] = folder().absolute()
        except (ConfigurationError, ModelError):  # without a home, nothing is written there
            continue
    return found


def _room(folder: Path) -> tuple[int, int] | None:
    """Bytes that may be written on a folder's disk, and its size; of one that isn't made yet, on
    that of the folder above."""
    for place in (folder, *folder.parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
