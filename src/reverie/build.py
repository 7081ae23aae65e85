"""What this program was built from, and what it runs on."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import reverie

_FILE = Path(__file__).with_name("build.json")
"""Written as the wheel is built (``hatch_build.py``); a source tree has none."""


class Build(NamedTuple):
    version: str
    commit: str | None
    """Of the source; it ends with ``-dirty`` if that was changed. None: it isn't known."""
    date: str | None
    """Of the commit, or what ``SOURCE_DATE_EPOCH`` said. None: it isn't known."""
    python: str
    xllamacpp: str | None
    """The package that holds llama.cpp; None: it isn't installed."""
    sqlite: str


@cache
def facts() -> Build:
    """These facts, of the running program."""
    import sqlite3

    written: dict[str, str] = {}
    with suppress(OSError, ValueError):
        written = json.loads(_FILE.read_text())
    return Build(
        version=reverie.__version__,
        commit=written.get("commit"),
        date=written.get("date"),
        python=platform.python_version(),
        xllamacpp=_version_of("xllamacpp"),
        sqlite=sqlite3.sqlite_version,
    )


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
