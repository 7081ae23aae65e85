"""GPUs as the driver tells them. A script stands in for it, with its output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reverie.runner import gpus

GPU = {"id": "GPU-1", "name": "NVIDIA L4", "memory_total": 23034 << 20, "memory_free": 22563 << 20}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``nvidia-smi`` that knows one GPU, and the columns that are asked for here."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        """#!/bin/sh
        for column in $(echo "$1" | sed 's/--query-gpu=//; s/,/ /g'); do
            case $column in
                index) value=0 ;;
                uuid) value=GPU-1 ;;
                name) value='NVIDIA L4' ;;
                memory.total) value=23034 ;;
                memory.free) value=22563 ;;
                compute_cap) value=8.9 ;;
                utilization.gpu) value=37 ;;
                utilization.memory) value='[N/A]' ;;
                *) exit 2 ;;
            esac
            line="${line:+$line, }$value"
        done
        echo "$line"
        """
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.integration
@pytest.mark.usefixtures("driver")
async def test_a_gpu_has_all_that_livepeers_clients_parse() -> None:
    assert await gpus.info() == {"0": {**GPU, "major": 8, "minor": 9}}
    assert await gpus.stats() == {"0": {**GPU, "utilization_compute": 37, "utilization_memory": 0}}


async def test_without_a_driver_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await gpus.info() == {}
    assert await gpus.stats() == {}


@pytest.mark.integration
@pytest.mark.usefixtures("driver")
async def test_a_process_counts_the_gpus_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert await gpus.count() == 1
    for none in ("", "-1", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert await gpus.count() == 0
