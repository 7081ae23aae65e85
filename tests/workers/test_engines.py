"""An engine that the parent owns and all workers use: the default model, for real."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.workers.serving import Workers, workers

pytestmark = pytest.mark.real

CONFIG = '[[models]]\nname = "m"\nsource = "smollm2-135m"\nwarm = false\ncontext = 512\nslots = 2\n'


async def ask(server: Workers) -> int:
    status, _ = await server.post(max_tokens=4)
    return status


async def test_one_engine_serves_all_workers_and_outlives_them(tmp_path: Path) -> None:
    async with workers(tmp_path, CONFIG) as server:
        assert await asyncio.gather(*(ask(server) for _ in range(6))) == [200] * 6
        assert len(server.server.lines("engine started")) == 1
        os.kill(server.pids[0], signal.SIGKILL)
        await server.until(lambda: len(server.server.lines("worker started")) == 3)
        assert await asyncio.gather(*(ask(server) for _ in range(6))) == [200] * 6
        assert len(server.server.lines("engine started")) == 1

        # A worker's word that its last request has ended may come after the answer.
        status, model = await server.admin("POST", "models/unload", model="m")
        while status == 409:
            await asyncio.sleep(0.02)
            status, model = await server.admin("POST", "models/unload", model="m")
        assert (status, model["state"]) == (200, "cold")
        assert await asyncio.gather(*(ask(server) for _ in range(6))) == [200] * 6
        assert len(server.server.lines("engine started")) == 2
        pids = [*server.pids, server.server.lines("engine started")[-1]["pid"]]
        server.server.process.kill()
        while any(Path(f"/proc/{pid}").exists() for pid in pids):  # noqa: ASYNC240
            await asyncio.sleep(0.02)
