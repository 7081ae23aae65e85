"""``/hardware/info`` and ``/hardware/stats``: this machine's GPUs, CPU and memory.

The answers have the shape of Livepeer's runner. Where the default model runs on a cluster's
machines, no GPU is told of: it runs on none of these.
"""

from __future__ import annotations

import os
import platform
from typing import Any

from fastapi import APIRouter

from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.operations.health import about
from reverie.http.operations.security import OR_NONE, checked_router
from reverie.runner import gpus


def routes(registry: ModelRegistry, access: Access) -> APIRouter:
    router = checked_router("operations", access.admit_operator)

    def runs_here() -> bool:
        return not registry.models.default.settings.engines

    summary = "The machine's GPUs, CPU and memory"

    @router.get("/hardware/info", summary=summary, openapi_extra=OR_NONE)
    async def hardware_info() -> dict[str, Any]:
        found = await gpus.info() if runs_here() else {}
        return {**about(registry), "gpu_info": found, **_machine()}

    @router.get("/hardware/stats", summary="What the machine's GPUs do now", openapi_extra=OR_NONE)
    async def hardware_stats() -> dict[str, Any]:
        found = await gpus.stats() if runs_here() else {}
        return {**about(registry), "gpu_stats": found, **_machine()}

    return router


def _machine() -> dict[str, Any]:
    return {"cpu": cpu(), "memory": memory()}


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
