from __future__ import annotations

import os
from pathlib import Path

import pytest

from reverie.runner.cores import usable_cores


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
