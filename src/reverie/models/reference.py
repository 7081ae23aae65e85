"""Model references, as configuration and command line write them (CONTRACT §1)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

from reverie.errors import ModelError
from reverie.models.catalogue import CATALOGUE, CatalogueEntry, look_up

_HUB = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/(.+\.gguf))?", re.IGNORECASE)


class FileReference(NamedTuple):
    """A file on this machine."""

    path: Path


class HubReference(NamedTuple):
    """A repository on the Hugging Face hub, and a file of it if one is named."""

    repo: str
    file: str | None


Reference: TypeAlias = CatalogueEntry | HubReference | FileReference


def parse(ref: str) -> Reference:
    """Read a reference.

    Raises:
        ModelError: it has none of the three forms, or names no model of the catalogue.
    """
    if ref.startswith("hf:"):
        match = _HUB.fullmatch(ref)
        if match is None or ".." in ref:
            raise ModelError(f"{ref}: write hf:OWNER/REPO or hf:OWNER/REPO/FILE.gguf.")
        return HubReference(match.group(1), match.group(2))
    if ref.startswith(("/", "./", "../", "~")) or ref.lower().endswith(".gguf"):
        return FileReference(Path(ref).expanduser())
    entry = look_up(ref)
    if entry is None:
        known = ", ".join(entry.name for entry in CATALOGUE)
        raise ModelError(
            f"{ref}: there is no such model in the catalogue ({known}). "
            "Other forms: hf:OWNER/REPO[/FILE.gguf], or the path of a .gguf file."
        )
    return entry


def name_of(ref: str) -> str:
    """The name under which a reference is served when nothing else names it.

    Raises:
        ModelError: as ``parse``.
    """
    reference = parse(ref)
    if isinstance(reference, CatalogueEntry):
        return reference.name
    if isinstance(reference, FileReference):
        return reference.path.stem
    if reference.file is not None:
        return Path(reference.file).stem
    return reference.repo.rpartition("/")[2]
