"""What an engine needs of the machine: memory, as estimated, and cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reverie.models.gguf import Header
from reverie.runner.resources import (
    available_memory,
    estimate_memory,
    usable_cores,
    usable_memory,
)
from tests.runner.conftest import StartRunner

MIB = 1024 * 1024


def test_all_parts_of_a_split_model_count_and_no_other_file(tmp_path: Path) -> None:
    for name, size in (
        ("m-00001-of-00002.gguf", 100),
        ("m-00002-of-00002.gguf", 20),
        ("m-00002-of-00003.gguf", 3000),
        ("n-00002-of-00002.gguf", 4000),
    ):
        (tmp_path / name).write_bytes(bytes(size))
    header = Header("a", "", 4096, None, 1, None, 7)
    assert estimate_memory(tmp_path / "m-00001-of-00002.gguf", header, 10, 0) == 100 + 20 + 7 * 10
    assert estimate_memory(tmp_path / "n-00002-of-00002.gguf", header, 0, 3) == 4000 + 3 * MIB


async def test_an_engine_takes_about_what_was_estimated(start_runner: StartRunner) -> None:
    runner = await start_runner(kv_tokens=8192, cache_mib=0)
    await runner.wait_ready(60)
    assert runner.pid is not None
    assert 0 < _resident(runner.pid) - runner.memory < 120 * MIB


def _resident(pid: int) -> int:
    """Bytes of memory that a process takes."""
    status = Path(f"/proc/{pid}/status").read_text()
    [kib] = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return int(kib) * 1024


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four physical cores of two threads each; this process may use the first three."""
    for number in range(8):
        topology = tmp_path / f"cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 5, 6}, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 3), ("200000 100000", 2), ("50000 100000", 1), ("", 3), ("900000 100000", 3)],
)
def test_physical_cores_within_affinity_and_quota(cpu: Path, quota: str, cores: int) -> None:
    file = cpu / "cpu.max"
    file.write_text(quota)
    assert usable_cores(cpu, file) == cores


def test_without_knowledge_of_the_machine_there_is_a_core(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "absent") >= 1


@pytest.mark.parametrize("unlimited", ["max\n", "", f"{2**62}\n"])
def test_a_containers_limit_bounds_its_memory(tmp_path: Path, unlimited: str) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(unlimited)
    whole = usable_memory(limit)
    assert whole == usable_memory(tmp_path / "absent") > MIB
    limit.write_text(f"{MIB}\n")
    assert usable_memory(limit) == MIB


def test_what_is_free_counts_within_a_containers_limit(tmp_path: Path) -> None:
    limit, machine = tmp_path / "memory.max", tmp_path / "meminfo"
    assert available_memory(limit, machine) == usable_memory(limit)  # nobody tells
    machine.write_text("MemTotal:  900 kB\nMemAvailable:  300 kB\nHugePages_Total: 0\n")
    assert available_memory(limit, machine) == 300 * 1024
    limit.write_text(f"{200 * 1024}\n")
    assert available_memory(limit, machine) == 200 * 1024
    (tmp_path / "memory.current").write_text(f"{150 * 1024}\n")
    assert available_memory(limit, machine) == 50 * 1024
    files = f"anon 7\nactive_file {20 * 1024}\ninactive_file {10 * 1024}\n"
    (tmp_path / "memory.stat").write_text(files)  # it gives way
    assert available_memory(limit, machine) == 80 * 1024
    limit.write_text("max\n")
    assert available_memory(limit, machine) == 300 * 1024
