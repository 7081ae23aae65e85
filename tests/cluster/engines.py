"""Cheap engines for tests of the cluster: a scripted program in place of llama.cpp."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from reverie.cluster.messages import EngineSpec
from reverie.settings import ModelSettings
from tests.cluster import scripted_server
from tests.cluster.scripted_server import words_of
from tests.models.gguf_file import SMALL

_ROOT = Path(__file__).parents[2]


def text_of(words: int) -> str:
    """What such an engine answers to any request for so many tokens."""
    return "".join(words_of(words))


def write_program(folder: Path, name: str = "llama-server", **flags: object) -> Path:
    """Write the program that plays a ``llama-server``.

    Args:
        flags: ``pace=0.05`` (seconds a word), ``words=300`` (the whole answer's),
            ``load_seconds=1`` (until it is ready).
    """
    given = [part for flag, value in flags.items() for part in (f"--{_dashed(flag)}", str(value))]
    path = shlex.quote(f"{_ROOT}:{_ROOT / 'src'}")
    command = shlex.join([sys.executable, scripted_server.__file__, *given])
    program = folder / name
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {command} "$@"\n')
    program.chmod(0o755)
    return program


def _dashed(flag: str) -> str:
    return flag.replace("_", "-")


def write_model(folder: Path) -> Path:
    """Write a model's file that takes no memory. It has a header and no weights."""
    file = folder / "small.gguf"
    file.write_bytes(SMALL)
    return file


def scripted_model(folder: Path, name: str = "m", **settings: Any) -> ModelSettings:
    """The settings of a model whose engines are scripted. Whatever isn't a setting of models is a
    flag of ``write_program``."""
    own = ModelSettings.model_fields
    flags = {key: settings.pop(key) for key in list(settings) if key not in own}
    defaults = {
        "source": str(write_model(folder)),
        "engine": str(write_program(folder, **flags)),
        "slots": 4,
        "cache_mib": 0,
    }
    return ModelSettings(name=name, **(defaults | settings))


def scripted(folder: Path, name: str = "m", **settings: Any) -> EngineSpec:
    """The same as what a manager is told."""
    return EngineSpec.of(scripted_model(folder, name, **settings))
