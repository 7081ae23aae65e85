"""What can be fetched by name: the catalogue's models, and those of the hub worth a try."""

from __future__ import annotations

from typing import Any

from reverie.models.catalogue import CATALOGUE
from reverie.models.store import find
from reverie.models.suggestions import SUGGESTIONS, fits


def offers(memory: int) -> list[dict[str, Any]]:
    """Each model with its needs and whether it is here. It reads the disk.

    Args:
        memory: bytes that a model may take.
    """
    pinned = [
        {
            "name": entry.name,
            "source": entry.name,
            "title": entry.name,
            "bytes": entry.size,
            "memory_bytes": entry.memory,
            "fits": fits(entry.memory, memory),
            "here": find(entry.name) is not None,
            "pinned": True,
            "task": "generate",
            "note": f"small enough for every machine; {entry.licence}",
        }
        for entry in CATALOGUE
    ]
    suggested = [
        {
            "name": None,
            "source": one.ref,
            "title": one.ref.rpartition("/")[2].removesuffix(".gguf"),
            "bytes": one.size,
            "memory_bytes": one.memory,
            "fits": fits(one.memory, memory),
            "here": find(one.ref) is not None,
            "pinned": False,
            "task": one.task,
            "note": f"{one.good_for}; {one.licence}",
        }
        for one in SUGGESTIONS
    ]
    return [*pinned, *suggested]
