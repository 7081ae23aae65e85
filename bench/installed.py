"""Installs what Reverie is compared with, in environments of its own below a cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reverie-bench"
_APT = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "nginx-light")
_INSTALL_SECONDS = 900


class Missing(Exception):
    """A contestant can't be had here; says why."""


class Program(NamedTuple):
    """A program that is installed."""

    path: Path
    version: str


def litellm() -> Program:
    """LiteLLM's proxy."""
    return _from_package_index("litellm[proxy]", "litellm")


def vllm_router() -> Program:
    """vLLM's router, in Rust."""
    return _from_package_index("vllm-router", "vllm-router")


def aiperf() -> Program:
    """NVIDIA's load generator."""
    return _from_package_index("aiperf", "aiperf")


def nginx() -> Program:
    """nginx, from the system's packages."""
    if shutil.which("nginx") is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise Missing("nginx isn't installed; apt-get as root would install it")
        _run("apt-get", "update", "--quiet")
        _run(*_APT)
    path = shutil.which("nginx")
    if path is None:
        raise Missing("nginx can't be found once installed")
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stderr
    return Program(Path(path), said.strip().rpartition("/")[2])


def _from_package_index(requirement: str, command: str) -> Program:
    """A package in an environment of its own, made once; to have a newer one, delete its folder."""
    folder = _CACHE / command
    python, program = folder / "bin" / "python", folder / "bin" / command
    if not program.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", requirement)
    if not program.exists():
        raise Missing(f"{requirement} has no command {command}")
    package = re.sub(r"\[.*", "", requirement)
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    return Program(program, said.stdout.strip())


def _run(*command: str) -> None:
    """Run a command that installs something.

    Raises:
        Missing: it failed; its last line says why.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it failed"]
        raise Missing(lines[-1][:200])
