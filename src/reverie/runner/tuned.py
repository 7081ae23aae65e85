"""What `reverie tune` measured, kept for the model file, the machine and the engine it holds for.

All of it is one JSON file in the state directory. One that can't be read counts as empty: an engine
starts as well without it.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import Struct

from reverie.paths import make_folder, state_directory
from reverie.runner.options import XLLAMACPP
from reverie.runner.resources import usable_cores

FILE = "tuned.json"
_CPU_INFO = Path("/proc/cpuinfo")


class Tuned(Struct, frozen=True):
    """What an engine should run with where its settings don't say."""

    threads: int
    batch: int


class Conditions(Struct, frozen=True):
    """What a result holds for. A model file is known by its name and size."""

    model: str
    size: int
    engine: str
    cpu: str
    cores: int


class _Entry(Struct, frozen=True):
    conditions: Conditions
    tuned: Tuned


def conditions_of(model: Path, engine: str) -> Conditions:
    """What holds here and now.

    Args:
        engine: as ``find_engine`` gives it.

    Raises:
        OSError: the file of the model or of the engine can't be read.
    """
    if engine == XLLAMACPP:
        name = f"{XLLAMACPP} {version(XLLAMACPP)}"
    else:
        stat = os.stat(engine)
        name = f"{engine} {stat.st_size} {stat.st_mtime_ns}"
    return Conditions(model.name, model.stat().st_size, name, _cpu(), usable_cores())


def kept(conditions: Conditions) -> Tuned | None:
    """The result for these conditions; None if there is none."""
    found = [entry.tuned for entry in _read() if entry.conditions == conditions]
    return found[-1] if found else None


def keep(conditions: Conditions, tuned: Tuned) -> Path:
    """Keep a result in place of any other for these conditions. Gives the file.

    Raises:
        OSError
    """
    others = [entry for entry in _read() if entry.conditions != conditions]
    return _write([*others, _Entry(conditions, tuned)])


def forget(model: Path | None = None) -> int:
    """Forget all results, or those for a model file. Gives their number.

    Raises:
        OSError
    """
    entries = _read()
    left = [e for e in entries if model is not None and e.conditions.model != model.name]
    if len(left) < len(entries):
        _write(left)
    return len(entries) - len(left)


def _read() -> list[_Entry]:
    try:
        return msgspec.json.decode((state_directory() / FILE).read_bytes(), type=list[_Entry])
    except (OSError, msgspec.DecodeError):
        return []


def _write(entries: list[_Entry]) -> Path:
    file = state_directory() / FILE
    make_folder(file.parent)
    part = file.with_name(f"{FILE}.{os.getpid()}.part")
    try:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(entries)) + b"\n")
        os.replace(part, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
    return file


@cache
def _cpu() -> str:
    """The processor's name; empty where the system doesn't tell."""
    try:
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:  # not on Linux
        import platform

        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")
