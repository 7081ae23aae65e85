"""The cluster that this machine's ``reverie cluster head`` or ``join`` made it a part of last.

Commands on this machine use it where nothing else says which cluster is meant.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import ValidationError

from reverie.paths import make_folder, state_directory
from reverie.settings import ClusterSettings


def remember(cluster: ClusterSettings) -> None:
    """Keep where the cluster is, and which files hold its token and certificates. May fail."""
    with contextlib.suppress(OSError):
        make_folder(_file().parent)
        _file().write_text(cluster.model_dump_json() + "\n")


def remembered() -> ClusterSettings | None:
    try:
        return ClusterSettings.model_validate_json(_file().read_bytes())
    except (OSError, ValidationError):
        return None


def _file() -> Path:
    return state_directory().absolute() / "cluster" / "membership.json"
