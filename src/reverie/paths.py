"""Where on this machine Reverie keeps state across restarts."""

from __future__ import annotations

import os
from pathlib import Path

from reverie.errors import ConfigurationError


def state_directory() -> Path:
    """``$XDG_STATE_HOME/reverie``, which is in ``~/.local/state`` by default.

    Raises:
        ConfigurationError: this user has no home folder, and the variable names none.
    """
    state = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(state) if state else Path.home() / ".local" / "state") / "reverie"
    except RuntimeError:
        raise ConfigurationError(
            ["XDG_STATE_HOME: this user has no home folder: set it to a folder to keep state in"]
        ) from None


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it. The state directory is its user's alone.

    Raises:
        OSError
    """
    if folder.is_relative_to(state := state_directory().absolute()):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, so that a new file is still there after a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
