"""What a server costs: CPU time and memory of its process tree, on CPUs that are its own.

The servers that are measured share the first half of the CPUs, and engine and load the second. On
a machine with two that is one for each.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_CPUS = sorted(os.sched_getaffinity(0))
_HALF = max(1, len(_CPUS) // 2)
SERVER_CPUS = frozenset(_CPUS[:_HALF])
LOAD_CPUS = frozenset(_CPUS[_HALF:] or _CPUS)
ALL_CPUS = frozenset(_CPUS)


@contextlib.contextmanager
def on_cpus(cpus: frozenset[int]) -> Iterator[None]:
    """Run on these CPUs, with the processes that are started inside."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tree(pid: int) -> list[int]:
    """A process and all below it that live."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                with contextlib.suppress(OSError):  # a thread that has just ended
                    found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a process tree has used, user and system, threads that ended included.

    The kernel's clock of a process counts nanoseconds; ``/proc/PID/stat`` counts hundredths.
    """
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~process << 3 | 2)  # clock_getcpuclockid(3)
    return total


def resident_mib(pid: int) -> float:
    """Memory of a process tree in MiB, where what several of its processes share counts once."""
    return sum(map(own_mib, tree(pid)))


def own_mib(pid: int, of: str = "Pss") -> float:
    """Memory of one process in MiB, and its part of what it shares; 0 if it has ended.

    Args:
        of: a line of ``/proc/PID/smaps_rollup``. ``Pss_Anon`` leaves out what is in files, a part
            that changes with each other process that begins or ends.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{of}:"):
                return int(line.split()[1]) / 1024
    return 0.0
