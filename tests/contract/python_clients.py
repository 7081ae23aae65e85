"""Clients that run on Python with packages of their own: installed once, by a script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "python"
_INSTALL = Path(__file__).parents[1] / "install-clients.sh"


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of the environment that has the clients."""
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [_INSTALL], env=environ, capture_output=True, text=True, timeout=400, check=False
    )
    if done.returncode:
        pytest.skip(f"the packages can't be had: {done.stdout}{done.stderr}"[-500:])
    return FOLDER / ".venv" / "bin" / "python"
