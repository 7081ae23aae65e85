"""How much memory an engine is said to take."""

from __future__ import annotations

from pathlib import Path

from reverie.models.gguf import Header
from reverie.runner.memory import estimate
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
    assert estimate(tmp_path / "m-00001-of-00002.gguf", header, 10, 0) == 100 + 20 + 7 * 10
    assert estimate(tmp_path / "n-00002-of-00002.gguf", header, 0, 3) == 4000 + 3 * MIB


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
