"""One file from one URL: resumed where it broke off, verified, and never half there.

The bytes go into ``FILE.part`` beside the target. A later try, in this process or another, goes
on at its end with a Range request, unless the server sends the whole file again. Only a file with
the right checksum gets the target's name, by an atomic rename.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import IO

from reverie.errors import ModelError
from reverie.models.progress import Progress

_ATTEMPTS = 5
"""Failures in a row that bring less than one of ``_STEPS`` of the file."""
_STEPS = 100
_PAUSE = 0.5
"""Seconds before the second attempt; each further one waits twice as long."""
_TIMEOUT = 30.0
"""Seconds that a server may be silent."""
_CHUNK = 256 * 1024
_SPARE = 50 * 1000 * 1000
"""Bytes that must stay free beside what is fetched."""
_MB = 1_000_000
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DownloadFailed(Exception):
    """The URL could not be fetched. The message says why, without the URL."""


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def download(url: str, target: Path, *, what: str, size: int, sha256: str) -> None:
    """Fetch a file whose size and SHA-256 are known.

    Raises:
        ModelError: the disk is full, or what came is not the file.
        DownloadFailed: the server can't be reached, or doesn't have it.
    """
    part = part_of(target)
    with tidy_when_full(part):
        if size_of(part) > size:
            part.unlink()  # not the beginning of this file
        require_space(target.parent, size - size_of(part), what)
        with Progress(what, size, size_of(part)) as progress:
            _fetch(url, part, size, progress)
        verify(part, sha256, what)
        os.replace(part, target)


def require_space(folder: Path, size: int, what: str) -> None:
    """Refuse to begin what the disk can't hold.

    Raises:
        ModelError
    """
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise ModelError(
            f"The disk is too full for {what}: it needs {(size + _SPARE) / _MB:.0f} MB and "
            f"{free / _MB:.0f} MB are free. Make room, or set REVERIE_HOME to another disk."
        )


@contextmanager
def tidy_when_full(part: Path) -> Generator[None, None, None]:
    """A disk that fills up on the way is a clear error, and leaves nothing half-made."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        part.unlink(missing_ok=True)
        raise ModelError(
            "The disk is full. What had been fetched of the model was removed; make room, or set "
            "REVERIE_HOME to another disk."
        ) from None


def verify(part: Path, sha256: str, what: str) -> None:
    """Check a file's SHA-256; remove a wrong one.

    Raises:
        ModelError
    """
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        os.fsync(file.fileno())
    if digest.hexdigest() != sha256:
        part.unlink()
        raise ModelError(
            f"What was fetched as {what} has the wrong checksum, so it was thrown away. Try again; "
            "if it happens twice, a proxy or a mirror changes the file."
        )


def _fetch(url: str, part: Path, size: int, progress: Progress) -> None:
    """Fetch until the part has the file's size, going on where a connection broke."""
    context = ssl.create_default_context(cafile=_certificates())
    failures = 0
    while (done := size_of(part)) < size:
        failure = "the connection broke"
        try:
            _fetch_rest(url, part, done, size, progress, context)
        except urllib.error.HTTPError as error:
            error.close()
            failure = f"the server answered {error.code}"
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                _drop(part, progress)
            elif error.code < 500 and error.code != http.client.TOO_MANY_REQUESTS:
                raise DownloadFailed(failure) from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                raise
            failure = str(getattr(error, "reason", "")) or type(error).__name__
        arrived = size_of(part) - done
        failures = failures + 1 if arrived < size / _STEPS else 1
        if done + arrived < size:
            if failures == _ATTEMPTS:
                raise DownloadFailed(failure)
            time.sleep(_PAUSE * 2 ** (failures - 1))


def _fetch_rest(
    url: str, part: Path, done: int, size: int, progress: Progress, context: ssl.SSLContext
) -> None:
    """One request for what is missing, as far as it brings it."""
    request = urllib.request.Request(url, headers={"User-Agent": "reverie"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT, context=context) as response:
        if done and response.status != http.client.PARTIAL_CONTENT:
            _drop(part, progress)
            done = 0
        if not _is_rest(response.headers, done, size):
            raise DownloadFailed("the server sent another file")
        _copy(_blocks(response), part, size, progress)


def _is_rest(headers: Message, done: int, size: int) -> bool:
    """Whether the answer claims to be what is missing: a login page, say, has another length."""
    if done:
        return headers.get("Content-Range", "").startswith(f"bytes {done}-{size - 1}/")
    return headers.get("Content-Length", str(size)) == str(size)


def _drop(part: Path, progress: Progress) -> None:
    """Begin again."""
    progress.advance(-size_of(part))
    part.unlink(missing_ok=True)


def _blocks(response: IO[bytes]) -> Iterable[bytes]:
    while block := response.read(_CHUNK):
        yield block


def _copy(blocks: Iterable[bytes], part: Path, size: int, progress: Progress) -> None:
    with part.open("ab") as file:
        for block in blocks:
            file.write(block)
            progress.advance(len(block))
            if file.tell() > size:
                return  # more than the file has: the checksum will say so


def size_of(file: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _certificates() -> str | None:
    """The bundle of certificates that the user's own tools are told to trust."""
    for variable in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(variable):
            return path
    return None
