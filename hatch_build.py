"""Puts into each distribution what it is built from: ``reverie/build.json``, of the commit."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NAME = "build.json"


class BuildFacts(BuildHookInterface[Any]):
    """An sdist hands them on to its wheels. A tree without git has none, nor has one that is
    installed to be edited."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        package = Path("src", "reverie") if self.target_name == "sdist" else Path("reverie")
        known = Path(self.root, "src", "reverie", _NAME)
        if version == "editable":
            return
        if known.exists():
            build_data["force_include"][str(known)] = str(package / _NAME)
        elif facts := _facts(Path(self.root)):
            self._folder = tempfile.TemporaryDirectory()
            file = Path(self._folder.name, _NAME)
            file.write_text(json.dumps(facts, indent=1) + "\n")
            build_data["force_include"][str(file)] = str(package / _NAME)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _facts(root: Path) -> dict[str, str]:
    """The commit, and its time or the one that ``SOURCE_DATE_EPOCH`` gives."""
    facts = {}
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if Path(root, ".git").exists():  # else a repository around it, which isn't its own
        commit = _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        if commit is not None:
            facts["commit"] = commit
            epoch = epoch or _git(root, "log", "-1", "--format=%ct")
    if epoch is not None:
        facts["date"] = datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return facts


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None
