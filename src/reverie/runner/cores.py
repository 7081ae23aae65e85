"""How many cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPU = Path("/sys/devices/system/cpu")
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpu: Path = _CPU, quota: Path = _CGROUP_QUOTA) -> int:
    """Physical cores, within the affinity mask and the container's CPU quota; at least 1.

    More computing threads than that only wait for each other.
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
