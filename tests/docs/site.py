"""Builds the documentation's site as `make site` does, somewhere else."""

from __future__ import annotations

import os
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.test_docs import ROOT

os.environ["NO_MKDOCS_2_WARNING"] = "1"  # of a version that isn't used here


def build_site(folder: Path, **changes: object) -> Path:
    """The folder with the site in it, by `mkdocs.yml` with some of its values changed."""
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), **changes)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
    return folder
