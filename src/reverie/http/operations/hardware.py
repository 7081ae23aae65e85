"""``/hardware/info`` and ``/hardware/stats``: this machine's GPUs, CPU and memory.

The answers have the shape of Livepeer's runner. GPUs are those that NVIDIA's driver reports. Where
the default model runs on a cluster's machines, none are told of: it runs on none of these.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from typing import Any

from fastapi import APIRouter

from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.operations.health import about
from reverie.http.operations.security import OR_NONE, checked_router
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


def routes(registry: ModelRegistry, access: Access) -> APIRouter:
    router = checked_router("operations", access.admit_operator)

    def runs_here() -> bool:
        return not registry.models.default.settings.engines

    summary = "The machine's GPUs, CPU and memory"

    @router.get("/hardware/info", summary=summary, openapi_extra=OR_NONE)
    async def hardware_info() -> dict[str, Any]:
        gpus = await info() if runs_here() else {}
        return {**about(registry), "gpu_info": gpus, "cpu": cpu(), "memory": memory()}

    @router.get("/hardware/stats", summary="What the machine's GPUs do now", openapi_extra=OR_NONE)
    async def hardware_stats() -> dict[str, Any]:
        gpus = await stats() if runs_here() else {}
        return {**about(registry), "gpu_stats": gpus, "cpu": cpu(), "memory": memory()}

    return router


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


def cpu() -> dict[str, Any]:
    return {"model": _cpu_model(), "cores": os.cpu_count() or 1, "load": list(os.getloadavg())}


def memory() -> dict[str, int]:
    """Main memory, in bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    free = page * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
    return {"total": total, "free": free}


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


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
