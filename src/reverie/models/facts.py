"""What the file of a model says of it, for people: its family, its size, how it is quantised."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from reverie.errors import ModelError
from reverie.models.gguf import read_header
from reverie.models.store import find

_QUANTIZATIONS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""``general.file_type`` → its name (``llama_ftype`` in llama.cpp)."""


class Facts(NamedTuple):
    """What is known of a model's file."""

    family: str
    """The architecture, such as ``llama``; empty if the file doesn't say."""
    parameters: int
    quantization: str
    """Such as ``Q4_K_M``; empty if the file doesn't say."""
    size: int
    """Bytes on disk."""
    modified: int
    """Seconds since 1970."""
    template: str
    """The chat template, in Jinja; empty if there is none."""


def facts(source: str) -> Facts | None:
    """What the file of a model reference says; None if it can't be read now. It reads the disk."""
    try:
        path = find(source)
        if path is None:
            return None
        status = path.stat()
        return _read(path, status.st_size, int(status.st_mtime))
    except (ModelError, OSError):
        return None


@lru_cache(maxsize=64)
def _read(path: Path, size: int, modified: int) -> Facts:
    """Read a file's header; size and time tell whether what was read before still holds."""
    header = read_header(path)
    return Facts(
        family=header.architecture,
        parameters=header.parameters,
        quantization=_QUANTIZATIONS.get(header.file_type, ""),
        size=size,
        modified=modified,
        template=header.chat_template or "",
    )
