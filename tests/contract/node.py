"""Clients that run on Node: installed once, skipped only where they can't be had."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "javascript"
_INSTALL = Path(__file__).parents[1] / "install-npm.sh"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder with the clients' packages."""
    installed = subprocess.run([_INSTALL], capture_output=True, text=True, timeout=400, check=False)
    if installed.returncode:
        pytest.skip(f"the packages can't be had: {installed.stdout}{installed.stderr}"[-500:])
    return FOLDER / "node_modules"


async def output_of(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """What a program writes; it fails the test if it fails itself."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        written, complaints = await asyncio.wait_for(process.communicate(), 120)
    except TimeoutError:
        process.kill()
        written, complaints = await process.communicate()
    assert process.returncode == 0, (written + complaints).decode()[-3000:]
    return written.decode()
