"""How full the disks are, from the disks themselves."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.gateway import disk_metrics
from reverie.gateway.disk_metrics import DiskMetrics


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "not" / "made" / "yet"))
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "models"))


def values(metrics: DiskMetrics) -> Iterator[tuple[str, str, float]]:
    for family in metrics.collect():
        for sample in family.samples:
            yield sample.name, sample.labels.get("folder", ""), sample.value


async def test_each_folder_has_the_room_of_its_disk_also_before_it_is_made(tmp_path: Path) -> None:
    metrics = DiskMetrics(None)
    await metrics.measure()
    found = {(name, folder): value for name, folder, value in values(metrics)}
    disk = os.statvfs(tmp_path)
    assert {folder for _, folder in found} == {"state", "models"}
    assert found["reverie_disk_size_bytes", "state"] == disk.f_blocks * disk.f_frsize
    assert 0 < found["reverie_disk_free_bytes", "models"] < disk.f_blocks * disk.f_frsize


async def test_a_store_is_as_large_as_its_file_and_its_log(tmp_path: Path) -> None:
    file = tmp_path / "reverie.db"
    metrics = DiskMetrics(file)
    await metrics.measure()
    assert ("reverie_store_size_bytes", "", 0) in values(metrics)
    file.write_bytes(b"x" * 1000)
    (tmp_path / "reverie.db-wal").write_bytes(b"x" * 234)
    await metrics.measure()
    assert ("reverie_store_size_bytes", "", 1234) in values(metrics)


async def test_a_disk_that_hangs_holds_nothing_up_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = DiskMetrics(None)
    await metrics.measure()
    before = list(values(metrics))
    back, asked = threading.Event(), []

    def hang(folder: Path) -> None:
        asked.append(folder)
        back.wait(60)

    monkeypatch.setattr(disk_metrics, "_room", hang)
    monkeypatch.setattr(disk_metrics, "_PATIENCE", 0.05)
    try:
        for _ in range(3):
            await metrics.measure()
            assert list(values(metrics)) == before
        assert len(asked) == 1
        await asyncio.get_running_loop().shutdown_default_executor()  # as the process ends
    finally:
        back.set()
