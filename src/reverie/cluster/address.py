"""The head that this machine's ``reverie cluster head`` or ``join`` went with last."""

from __future__ import annotations

import contextlib
from pathlib import Path

from reverie.paths import make_folder, state_directory


def remember_head(head: str) -> None:
    """Keep ``HOST:PORT`` for the commands that are given no address. A convenience: may fail."""
    with contextlib.suppress(OSError):
        make_folder(_file().parent)
        _file().write_text(head + "\n")


def remembered_head() -> str | None:
    try:
        return _file().read_text().strip() or None
    except OSError:
        return None


def _file() -> Path:
    return state_directory().absolute() / "cluster" / "address"
