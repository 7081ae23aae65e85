"""This machine's GPUs, as NVIDIA's driver reports them."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from typing import Any

from reverie.runner.resources import usable_memory

_QUERY_TIMEOUT = 5.0
_INFO = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap")
_STATS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.free",
    "utilization.gpu",
    "utilization.memory",
)
_MIB = 1024 * 1024


async def info() -> dict[str, dict[str, Any]]:
    """The GPUs by index; empty where there are none."""
    found = {}
    for row in await _query(_INFO):
        major, _, minor = row["compute_cap"].partition(".")
        found[row["index"]] = {
            "id": row["uuid"],
            "name": row["name"],
            "memory_total": _bytes(row["memory.total"]),
            "memory_free": _bytes(row["memory.free"]),
            "major": int(major) if major.isdigit() else 0,
            "minor": int(minor) if minor.isdigit() else 0,
        }
    return found


async def for_models() -> tuple[int, int]:
    """Bytes that a model may take: of main memory, and of the largest GPU (0: there is none)."""
    gpus = await info()
    return usable_memory(), max((int(gpu["memory_total"]) for gpu in gpus.values()), default=0)


async def stats() -> dict[str, dict[str, Any]]:
    """How busy the GPUs are, by index; empty where there are none."""
    return {
        row["index"]: {
            "id": row["uuid"],
            "name": row["name"],
            "memory_total": _bytes(row["memory.total"]),
            "memory_free": _bytes(row["memory.free"]),
            "utilization_compute": _number(row["utilization.gpu"]),
            "utilization_memory": _number(row["utilization.memory"]),
        }
        for row in await _query(_STATS)
    }


async def count() -> int:
    """The GPUs that this process may use."""
    found = len(await _query(("index",)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    named = itertools.takewhile(lambda one: one and one != "-1", visible.split(","))  # as CUDA does
    return min(found, len(list(named)))


async def _query(columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Ask nvidia-smi; no rows where it is missing, fails, or doesn't answer in time."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    process = await asyncio.create_subprocess_exec(
        command,
        f"--query-gpu={','.join(columns)}",
        "--format=csv,noheader,nounits",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_QUERY_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return []
    if process.returncode != 0:
        return []
    rows = (line.split(", ") for line in output.decode(errors="replace").splitlines())
    return [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)]


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _bytes(mebibytes: str) -> int:
    return _number(mebibytes) * _MIB
