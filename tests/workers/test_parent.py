"""``reverie serve --workers 2`` as processes: what callers and the operator notice of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.cli.command import errors, reverie
from tests.workers.serving import Workers, config, workers

pytestmark = pytest.mark.integration


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine(Script(tokens=("a ",) * 10)) as scripted:
        yield scripted


async def ended(server: Workers) -> int:
    return await asyncio.to_thread(server.server.process.wait, 30)


async def test_slots_are_exact_and_none_idles_while_one_waits(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=("a ",) * 5, delay=0.005)
    most = 0

    def all_done(engine: ScriptedEngine) -> bool:
        nonlocal most
        most = max(most, engine.in_flight)
        return engine.completed == 40

    async with workers(tmp_path, config(engine.url, slots=4)) as server:
        watching = asyncio.create_task(engine.wait_for(all_done))
        asked = [asyncio.create_task(server.post()) for _ in range(40)]
        assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 40
        await watching
        assert most == 4
        engine.script = Script(tokens=("a ", "b"), stall_after=1)
        asked = [asyncio.create_task(server.post()) for _ in range(4)]
        await engine.wait_for(lambda e: e.stalled == 4)  # however they fell to the workers
        engine.resume()
        assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 4


async def test_a_worker_that_starts_hears_which_backends_are_back_meanwhile(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with workers(tmp_path, config(engine.url)) as server:
        _, backends = await server.admin("GET", "backends")
        backend = {"model": "m", "backend": backends["data"][0]["name"]}
        assert (await server.admin("POST", "backends/drain", **backend))[0] == 200
        killed, left = server.pids
        os.kill(killed, signal.SIGKILL)
        await server.until(lambda: len({*server.pids} - {killed, left}) == 1)
        assert (await server.admin("POST", "backends/resume", **backend))[0] == 200
        await server.until(lambda: len(server.server.lines("worker started")) == 3)
        ready = [v for name, v in (await server.metrics()).items() if "backend_ready" in name]
        assert ready == [1.0]


async def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    count = 24  # so that each worker surely has some of the connections
    engine.script = Script(tokens=("a ",) * 10, stall_after=5)
    async with workers(tmp_path, config(engine.url, slots=count)) as server:
        came: list[str] = []
        streams = [asyncio.create_task(server.stream(pieces=came)) for _ in range(count)]
        await server.until(lambda: len(came) == count * 5)
        killed, left = server.pids
        os.kill(killed, signal.SIGKILL)
        await engine.wait_for(lambda e: e.cancelled + e.stalled == count)
        await server.until(lambda: len(server.server.lines("worker started")) == 3)
        assert left in server.pids
        engine.resume()
        texts = await asyncio.gather(*streams)
        whole = "a " * 10
        assert whole in texts
        assert all(text == whole or text == "a " * 5 + "cut" for text in texts)
        # Its slots are back, and what it left open is closed.
        engine.script = Script(tokens=("a ", "b"), stall_after=1)
        more = [asyncio.create_task(server.post()) for _ in range(count)]
        await engine.wait_for(lambda e: e.stalled == count)
        engine.resume()
        assert [status for status, _ in await asyncio.gather(*more)] == [200] * count
        store = tmp_path / "state" / "reverie" / "reverie.db"
        with closing(sqlite3.connect(store)) as connection:
            count = "SELECT count(*) FROM ledger WHERE outcome IS NULL"
            await server.until(lambda: connection.execute(count).fetchone() == (0,))


async def test_a_drain_finishes_what_runs_in_all_workers(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=("a ",) * 10, stall_after=5)
    async with workers(tmp_path, config(engine.url, slots=8)) as server:
        streams = [asyncio.create_task(server.stream()) for _ in range(8)]
        await engine.wait_for(lambda e: e.stalled == 8)
        server.server.process.send_signal(signal.SIGTERM)
        await server.until(lambda: len(server.server.lines("draining")) == 2)
        engine.resume()
        assert await asyncio.gather(*streams) == ["a " * 10] * 8
        assert await ended(server) == 0


async def test_a_reload_is_for_all_workers_and_a_bad_one_for_none(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with (
        ScriptedEngine(Script(tokens=("new",))) as other,
        workers(tmp_path, config(engine.url)) as server,
    ):
        server.write(config(other.url))
        status, changes = await server.admin("POST", "reload")
        assert (status, changes["changed"]) == (200, ["m.backends"])
        answers = [await server.post() for _ in range(12)]
        assert {a["choices"][0]["message"]["content"] for _, a in answers} == {"new"}

        server.write("[server]\nqueue_sise = 1\n")
        status, refusal = await server.admin("POST", "reload")
        assert status == 400
        assert "queue_sise" in refusal["error"]["problems"][0]
        assert [(await server.post())[0] for _ in range(6)] == [200] * 6

        server.write(config(engine.url))
        server.server.process.send_signal(signal.SIGHUP)
        await server.until(lambda: len(server.server.lines("reloaded")) == 2)
        answers = [await server.post() for _ in range(12)]
        assert {a["choices"][0]["message"]["content"] for _, a in answers} == {"a " * 10}


async def test_what_the_operator_is_told_is_of_all_workers(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.script = Script(tokens=("a ", "b"), stall_after=1)
    async with workers(tmp_path, config(engine.url, slots=3)) as server:
        asked = [asyncio.create_task(server.post()) for _ in range(8)]
        await engine.wait_for(lambda e: e.stalled == 3)
        while (await server.metrics()).get('reverie_queue_length{model="m"}') != 5:
            await asyncio.sleep(0.02)
        for _ in range(4):  # whichever worker is asked
            metrics = await server.metrics()
            of_backend = next(name for name in metrics if name.startswith("reverie_in_flight"))
            assert metrics[of_backend] == 3
            assert metrics[of_backend.replace("in_flight", "slots")] == 3
            assert metrics['reverie_queue_length{model="m"}'] == 5
        _, live = await server.admin("GET", "live")
        assert (live["running"], live["models"][0]["waiting"]) == (8, 5)
        assert live["models"][0]["backends"][0]["in_flight"] == 3
        _, backends = await server.admin("GET", "backends")
        assert backends["data"][0]["in_flight"] == 3
        _, models = await server.admin("GET", "models")
        assert (models["data"][0]["in_flight"], models["data"][0]["waiting"]) == (3, 5)

        for one in live["requests"]:
            if one["state"] == "queued":
                status, answer = await server.admin("POST", f"requests/{one['id']}/cancel")
                assert (status, answer["cancelled"]) == (200, 1)
        engine.resume()
        statuses = sorted(status for status, _ in await asyncio.gather(*asked))
        assert statuses[:3] == [200] * 3
        assert all(status >= 400 for status in statuses[3:])
        metrics = await server.metrics()
        done = 'reverie_requests_total{model="m",outcome="ok",status="200"}'
        assert metrics[done] == 3

        engine.script = Script(tokens=("a",))
        name = backends["data"][0]["name"]
        assert (await server.admin("POST", "backends/drain", model="m", backend=name))[0] == 200
        assert [(await server.post())[0] for _ in range(8)] == [503] * 8
        assert (await server.admin("POST", "backends/resume", model="m", backend=name))[0] == 200
        assert [(await server.post())[0] for _ in range(8)] == [200] * 8


async def test_limits_are_exact_over_all_workers(engine: ScriptedEngine, tmp_path: Path) -> None:
    limits = "limits = { rpm = 10 }"
    async with workers(tmp_path, config(engine.url, slots=8, more=limits)) as server:
        answers = await asyncio.gather(*(server.post() for _ in range(30)))
        assert sorted(status for status, _ in answers) == [200] * 10 + [429] * 20


def test_a_worker_that_cannot_start_makes_the_start_fail_with_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "reverie.toml").write_text(config("http://127.0.0.1:9/v1", server="workers = 2"))
    missing = reverie("serve", "--port", "0", "--config", str(tmp_path / "reverie.toml"),
                      REVERIE_STORE_URL="none")  # fmt: skip
    assert "server.workers: more than one needs a store" in errors(missing)[0]
