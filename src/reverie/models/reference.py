"""Model references, as they are written in the configuration and on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

from reverie.errors import ModelError
from reverie.models.catalogue import CATALOGUE, CatalogueEntry, look_up

_NAME = r"\w(?:[\w.-]{0,94}\w)?"
"""The names that the hub allows for owners and repositories."""
_HUB = re.compile(rf"({_NAME}/{_NAME})(?:/((?:[^/\n]+/)*[^/\n]+\.gguf))?", re.ASCII | re.IGNORECASE)
_MAX_NAME = 200
"""In characters; ``ModelSettings.name`` has the same limit."""


class FileReference(NamedTuple):
    """A file on this machine."""

    path: Path


class HubReference(NamedTuple):
    """A repository on the Hugging Face hub (OWNER/REPO), and a file in it or None."""

    repo: str
    file: str | None


Reference: TypeAlias = CatalogueEntry | HubReference | FileReference


def parse(ref: str) -> Reference:
    """Parse a reference.

    Raises:
        ModelError: it has none of the three forms, or the catalogue has no such model.
    """
    if ref.startswith("hf:"):
        match = _HUB.fullmatch(ref.removeprefix("hf:"))
        if match is None or ".." in ref or "--" in match.group(1):
            raise ModelError(f"{ref}: write hf:OWNER/REPO or hf:OWNER/REPO/FILE.gguf.")
        return HubReference(match.group(1), match.group(2))
    if ref.startswith(("/", "./", "../", "~")) or ref.lower().endswith(".gguf"):
        try:
            return FileReference(Path(ref).expanduser())
        except RuntimeError:
            raise ModelError(f"{ref}: there is no home folder of that user.") from None
    entry = look_up(ref)
    if entry is None:
        known = ", ".join(entry.name for entry in CATALOGUE)
        raise ModelError(
            f"{ref}: there is no such model in the catalogue ({known}). "
            "Other forms: hf:OWNER/REPO[/FILE.gguf], or the path of a .gguf file."
        )
    return entry


def aliases_of(ref: str) -> tuple[str, ...]:
    """The aliases that the catalogue has for this model; empty for any other reference.

    Raises:
        ModelError: as ``parse``.
    """
    reference = parse(ref)
    return reference.aliases if isinstance(reference, CatalogueEntry) else ()


def shown(ref: str) -> str:
    """The reference for those who aren't on this machine: of a path, only the last part."""
    try:
        reference = parse(ref)
    except ModelError:
        return Path(ref).name
    return reference.path.name if isinstance(reference, FileReference) else ref


def name_of(ref: str) -> str:
    """The name to serve a model by if the configuration gives none.

    Raises:
        ModelError: as ``parse``.
    """
    reference = parse(ref)
    if isinstance(reference, CatalogueEntry):
        return reference.name
    if isinstance(reference, FileReference):
        name = reference.path.stem
    elif reference.file is not None:
        name = Path(reference.file).stem
    else:
        name = reference.repo.rpartition("/")[2]
    if not name:
        raise ModelError(f"{ref} is a folder, not a model file.")
    return name[:_MAX_NAME]
