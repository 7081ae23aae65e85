"""Names of models with and without Ollama's tag ``:latest``, which says nothing."""

from __future__ import annotations

_TAG = ":latest"


def other_spelling(name: str) -> str:
    """The same name with ``:latest`` if it lacks that, and without it if it has it."""
    return name.removesuffix(_TAG) if name.endswith(_TAG) else name + _TAG


def tagged(name: str) -> str:
    """The name as Ollama's clients list it: with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + _TAG
