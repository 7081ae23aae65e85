"""Settlements that the store could not take: kept in a local file until it takes them.

Each gateway appends to a file of its own and holds a lock on it. An unlocked file was left behind
by a gateway that died; the next one to start takes it over. An entry may go to the store twice
without harm (``store.settlements``, rule 1), so a file is only ever appended to or removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Generator
from pathlib import Path

import msgspec

from reverie.paths import make_folder, state_directory, sync_folder
from reverie.store.settlements import Settlement

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Settlement).decode
_SQLITE = "sqlite:///"


def directory(url: str) -> Path:
    """The folder of a store's journals: ``$XDG_STATE_HOME/reverie/journal/…``.

    A file that is named relative to the working directory is another one in each.
    """
    if url.startswith(_SQLITE):
        url = _SQLITE + os.path.abspath(url.removeprefix(_SQLITE))
    return state_directory() / "journal" / hashlib.sha256(url.encode()).hexdigest()[:16]


class Journal:
    """This gateway's journal. Its file exists while it has entries.

    Args:
        durable: whether each entry is forced to the disk.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._path = folder / f"{uuid.uuid4().hex}.jsonl"
        self._durable = durable
        self._file: int | None = None
        self._torn = False
        self.pending: list[Settlement] = []
        """Entries of the file that aren't known to be in the store."""

    def append(self, settlement: Settlement) -> None:
        """Keep a settlement.

        Raises:
            OSError: it can't be written.
        """
        if self._file is None:
            self._file = self._open()
        line = _encode(settlement) + b"\n"
        if self._torn:
            line = b"\n" + line
        self._torn = True
        if os.write(self._file, line) != len(line):
            # Whoever reads the file skips a torn line.
            raise OSError(errno.ENOSPC, "a part of the entry was written")
        self._torn = False
        if self._durable:
            os.fsync(self._file)
        self.pending.append(settlement)

    def _open(self) -> int:
        """Create the file. It gets its name once it is locked, so that nobody takes it over."""
        make_folder(self._path.parent)
        unnamed = self._path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(unnamed, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            unnamed.rename(self._path)
            if self._durable:
                sync_folder(self._path.parent)
        except BaseException:
            os.close(file)
            raise
        return file

    def done(self, count: int) -> None:
        """Forget the oldest entries, which are in the store now."""
        del self.pending[:count]
        if not self.pending and self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def entries(folder: Path) -> list[Settlement]:
    """What all journals hold, those of living gateways too. They stay.

    Raises:
        OSError: one of the files can't be read.
    """
    found: list[Settlement] = []
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # its gateway has no more use for it
            found += _read(path)
    return found


@contextlib.contextmanager
def left_behind(folder: Path) -> Generator[list[Settlement], None, None]:
    """Yield the entries of gateways that died; remove them after the block, unless it raised.

    Raises:
        OSError: one of the files can't be read or removed. The others were.
    """
    held: list[int] = []
    taken: list[Path] = []
    entries: list[Settlement] = []
    failure: OSError | None = None
    try:
        for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
            try:
                file = _lock(path)
                if file is None:
                    continue
                held.append(file)
                entries += _read(path)
                taken.append(path)
            except OSError as error:
                failure = error
        yield entries
        for path in taken:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
    finally:
        for file in held:
            os.close(file)


def _lock(path: Path) -> int | None:
    """Open and lock a journal; None: its gateway is alive, or it is gone.

    Raises:
        OSError: it can't be opened.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # another gateway took it over, or its own gateway is done with it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    if not os.fstat(file).st_nlink:  # it was removed meanwhile, and may have been begun anew
        os.close(file)
        return None
    return file


def _read(path: Path) -> list[Settlement]:
    entries = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(msgspec.DecodeError):  # torn by a full disk or a crash
            entries.append(_decode(line))
    return entries
