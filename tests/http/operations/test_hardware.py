"""What a server says that it is. A script stands in for NVIDIA's driver, with its output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import reverie
from reverie.http.operations import hardware
from tests.harness import Gateway

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
    assert await hardware.info() == {"0": {**GPU, "major": 8, "minor": 9}}
    assert await hardware.stats() == {
        "0": {**GPU, "utilization_compute": 37, "utilization_memory": 0}
    }


async def test_without_a_driver_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await hardware.info() == {}
    assert await hardware.stats() == {}


async def test_a_server_says_what_it_is(gateway: Gateway) -> None:
    about = {"pipeline": "llm", "model_id": "m"}
    assert (await gateway.get("/version"))[1] == {**about, "version": reverie.__version__}
    for path, gpus in (("/hardware/info", "gpu_info"), ("/hardware/stats", "gpu_stats")):
        status, body, _ = await gateway.get(path)
        assert status == 200
        assert about.items() <= body.items()
        assert isinstance(body[gpus], dict)
        assert body["cpu"]["cores"] >= 1
        assert 0 < body["memory"]["free"] <= body["memory"]["total"]
