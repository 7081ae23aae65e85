"""How much memory an engine takes: an estimate, made before it is started.

It is the model's file, the keys and values of as many tokens as its slots hold together, at 16
bits a number, and the prompts that ``cache_mib`` keeps. Not in it: buffers for computing, which are
small beside that. A model that attends to a window only takes less.
"""

from __future__ import annotations

import re
from pathlib import Path

from reverie.models.gguf import Header

MIB = 1024 * 1024
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


def estimate(model: Path, header: Header, kv_tokens: int, cache_mib: int) -> int:
    """Bytes that an engine of this model comes to take."""
    return _size(model) + header.kv_bytes_per_token * kv_tokens + cache_mib * MIB


def _size(model: Path) -> int:
    """Bytes of the file, or of all parts of a model that is split."""
    part = _PART.fullmatch(model.name)
    if part is None:
        return _size_of(model)
    stem, count = part.groups()
    return sum(
        _size_of(model.with_name(f"{stem}-{number:05}-of-{count}.gguf"))
        for number in range(1, int(count) + 1)
    )


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # the engine will say what is wrong with it
        return 0
