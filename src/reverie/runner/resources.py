"""What an engine needs of the machine: cores to compute on, and memory, estimated before it starts.

The estimate is the model's file, the keys and values of as many tokens as its slots hold together,
at 16 bits a number, and the prompts that ``cache_mib`` keeps. It leaves out compute buffers, which
are small beside that. A model with sliding-window attention takes less.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from reverie.models.gguf import Header
from reverie.models.hub import parts_of

MIB = 1024 * 1024
_CPU = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_MEMORY = Path("/proc/meminfo")


def estimate_memory(model: Path, header: Header, kv_tokens: int, cache_mib: int) -> int:
    """Bytes that an engine of this model will take."""
    return _model_size(model) + header.kv_bytes_per_token * kv_tokens + cache_mib * MIB


def _model_size(model: Path) -> int:
    """Bytes of the file, or of all parts of a model that is split."""
    return sum(_file_size(model.with_name(part)) for part in parts_of(model.name))


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # the engine will say what is wrong with it
        return 0


def usable_memory(limit: Path = _CGROUP_MEMORY) -> int:
    """Bytes of main memory within the container's limit, whether they are free now or not."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    written = _read(limit)  # "max", or nothing where there is no cgroup v2
    return min(total, int(written)) if written.isdigit() else total


def available_memory(limit: Path = _CGROUP_MEMORY, machine: Path = _MEMORY) -> int:
    """Bytes of main memory that a new process can have, within the container's limit.

    What files were read counts as free. All of ``usable_memory`` where the system doesn't tell.
    """
    usable = usable_memory(limit)
    free = _figures(machine).get("MemAvailable:")
    available = usable if free is None else min(usable, free * 1024)
    used = _read(limit.with_name("memory.current"))
    if _read(limit).isdigit() and used.isdigit():
        kept = _figures(limit.with_name("memory.stat"))
        reclaimable = kept.get("active_file", 0) + kept.get("inactive_file", 0)
        available = min(available, max(0, usable - int(used) + reclaimable))
    return available


def _figures(file: Path) -> dict[str, int]:
    """The first number of each line, by the word before it."""
    lines = (line.split() for line in _read(file).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


def usable_cores(cpu: Path = _CPU, quota: Path = _CGROUP_QUOTA) -> int:
    """Physical cores within the affinity mask and the container's CPU quota; at least 1.

    More compute threads than that only wait for each other.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    siblings = {_read(cpu / f"cpu{n}/topology/thread_siblings_list") or str(n) for n in allowed}
    return max(1, min(len(siblings), _quota_cores(quota)))


def _quota_cores(quota: Path) -> int:
    limit, _, period = _read(quota).partition(" ")
    if not limit.isdigit() or not period.isdigit():  # "max 100000", or no cgroup v2
        return 1 << 16
    return math.floor(int(limit) / int(period))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
