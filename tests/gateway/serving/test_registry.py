"""A new configuration replaces the models while requests run: nobody who is served notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from reverie.gateway.serving.registry import ModelRegistry
from reverie.settings import BackendSettings, ModelSettings, Settings
from reverie.testing import Script, ScriptedEngine
from tests.gateway.scheduling.fake_backend import FakeBackend
from tests.harness import StartGateway, chat
from tests.reloading import ADMIN, AS_ADMIN, refused, reload, says, text

TIMES = 50


async def test_models_come_go_and_change_and_the_default_moves(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with says("another") as other:
        gateway = await start_gateway(engine, environ=ADMIN)
        gateway.written["models"] = [
            {"name": "m", "aliases": ["second"], "backends": [{"url": other.url}]},
            {"name": "new", "backends": [{"url": engine.url}], "default": True},
        ]
        changes = await reload(gateway)
        differences = changes.pop("differences")
        assert [one["key"] for one in differences] == [
            "new", "default", "m.aliases", "m.backends"
        ]  # fmt: skip
        assert differences[1] == {"key": "default", "before": "m", "after": "new"}
        assert changes == {
            "object": "reload",
            "added": ["new"],
            "removed": [],
            "changed": ["default", "m.aliases", "m.backends"],
            "needs_restart": [],
        }
        assert await text(gateway, model="second") == "another"
        assert await text(gateway) == "Hello world"
        assert (await gateway.get("/version"))[1]["model_id"] == "new"
        assert (await gateway.post(chat(model="alias")))[1]["error"]["code"] == "model_not_found"

        del gateway.written["models"][0]
        assert (await reload(gateway))["removed"] == ["m"]
        assert (await gateway.post(chat(model="m")))[1]["error"]["code"] == "model_not_found"
        listed = (await gateway.get("/v1/models"))[1]["data"]
        assert [entry["id"] for entry in listed] == ["new"]
        assert set((await gateway.get("/health"))[1]["models"]) == {"new"}
        metrics = (await gateway.get("/metrics"))[1].splitlines()
        slots = [line for line in metrics if line.startswith("reverie_slots{")]
        assert len(slots) == 1
        assert 'model="new"' in slots[0]


async def test_fifty_reloads_under_load_fail_no_request(start_gateway: StartGateway) -> None:
    async with says(*"abcdef") as one, says(*"abcdef") as two, says(*"abcdef") as three:
        engines = (one, two, three)
        for engine in engines:
            engine.script = Script(tokens=tuple("abcdef"), delay=0.002)
        gateway = await start_gateway(one, environ=ADMIN)
        ended, done = [], asyncio.Event()

        async def ask(number: int) -> None:
            while not done.is_set():
                stream = number % 2 == 0
                body = chat(stream=stream, model="" if number % 3 else "m")
                async with gateway.http.post(gateway.url + "/llm", json=body) as response:
                    whole = await response.text()
                    assert response.status == 200, whole
                    assert not stream or whole.endswith("data: [DONE]\n\n"), whole
                    ended.append(whole)

        clients = [asyncio.create_task(ask(number)) for number in range(12)]
        for turn in range(TIMES):
            used = engines[turn % 3 : turn % 3 + 1] if turn % 2 else engines[: turn % 3 + 1]
            gateway.written["models"] = [
                {
                    "name": "m",
                    "aliases": [f"alias-{turn}"],
                    "backends": [{"url": e.url, "slots": 2 + turn % 5} for e in used],
                    "limits": {"concurrency": 100 + turn},
                    "price": {"input": f"{turn}USD", "output": f"{turn}USD"},
                },
                {"name": f"model-{turn}", "backends": [{"url": one.url}]},
            ]
            gateway.written["server"] = {
                "queue_size": 64 + turn,
                "queue_timeout": 20 + turn,
                "stall_timeout": 20 + turn,
            }
            assert (await reload(gateway))["added"] == [f"model-{turn}"]
            before = len(ended)
            await gateway.until(lambda before=before: len(ended) > before)  # type: ignore[misc]
        done.set()
        await asyncio.gather(*clients)

        assert all(engine.generations > 0 for engine in engines)
        assert sum(engine.cancelled for engine in engines) == 0
        usage = (await gateway.get("/admin/v1/usage", AS_ADMIN))[1]["rows"]
        assert [row["requests"] for row in usage] == [len(ended)]
        assert [row["completion_tokens"] for row in usage] == [6 * len(ended)]


async def test_limits_prices_and_queues_are_the_new_ones_for_the_next_request(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN, backend={"slots": 1})
    await text(gateway)
    gateway.written["models"][0] |= {"price": {"input": "1USD", "output": "10USD"}}
    gateway.written["server"]["queue_size"] = 0
    assert (await reload(gateway))["changed"] == ["m.price", "server.queue_size"]
    await text(gateway)
    usage = (await gateway.get("/admin/v1/usage", AS_ADMIN))[1]["rows"][0]
    assert (usage["requests"], usage["prompt_tokens"], usage["completion_tokens"]) == (2, 20, 4)
    [cost] = usage["costs"]
    assert cost["nano"] == 1e9 * (10 * 1 + 2 * 10) / 1e6  # of the second request alone

    engine.script = Script(stall_after=1)
    running = asyncio.create_task(text(gateway))
    await engine.wait_for(lambda e: e.stalled == 1)
    assert (await gateway.post(chat()))[1]["error"]["code"] == "overloaded"
    gateway.written["models"][0] |= {"limits": {"concurrency": 1}}
    await reload(gateway)
    assert (await gateway.post(chat()))[1]["error"]["code"] == "rate_limit_exceeded"
    engine.resume()
    assert await running == "Hello world"


async def test_new_timeouts_hold_for_a_backend_that_is_kept(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    pool = gateway.pool()
    gateway.written["server"] |= {"first_token_timeout": 0.1}
    await reload(gateway)
    assert gateway.pool() is pool
    engine.script = Script(first_delay=30)
    assert (await gateway.post(chat()))[1]["error"]["code"] == "backend_timeout"


async def test_a_stream_of_a_model_that_is_removed_runs_to_its_end(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with says("other") as other:
        gateway = await start_gateway(engine, environ=ADMIN)
        engine.script = Script(tokens=("a", "b", "c"), stall_after=1)
        async with gateway.http.post(gateway.url + "/llm", json=chat(stream=True)) as response:
            first = await response.content.readline()
            assert b'"a"' in first
            gateway.written["models"] = [{"name": "n", "backends": [{"url": other.url}]}]
            assert (await reload(gateway))["removed"] == ["m"]
            assert (await gateway.post(chat(model="m")))[0] == 400
            engine.resume()
            rest = await response.text()
        assert '"c"' in rest
        assert rest.endswith("data: [DONE]\n\n")
        await engine.wait_for(lambda e: e.connections == 0)  # nothing of it is kept


async def test_requests_that_wait_for_a_slot_of_a_model_that_changes_get_one(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN, backend={"slots": 1})
    engine.scripts = [Script(stall_after=1)]
    first = asyncio.create_task(text(gateway))
    await engine.wait_for(lambda e: e.stalled == 1)
    pool = gateway.pool()
    second = asyncio.create_task(text(gateway))
    await gateway.until(lambda: pool.waiting == 1)
    gateway.written["models"][0]["backends"][0]["slots"] = 7
    await reload(gateway)
    assert gateway.pool() is not pool
    assert await text(gateway) == "Hello world"
    engine.resume()
    assert [await first, await second] == ["Hello world"] * 2


async def test_models_that_cannot_be_served_change_nothing_and_all_are_reported(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    pool = gateway.pool()
    (tmp_path / "bad.gguf").write_text("no model")
    gateway.written["models"] = [
        {"name": "ok", "backends": [{"url": engine.url}], "default": True},
        {"name": "keyless", "backends": [{"url": engine.url, "api_key_env": "NOT_SET"}]},
        {"name": "missing", "source": str(tmp_path / "missing.gguf")},
        {"name": "bad", "source": str(tmp_path / "bad.gguf")},
    ]
    problems = await refused(gateway)
    assert [problem.split(": ")[0] for problem in problems] == [
        "model keyless",
        "model missing",
        "model bad",
    ]
    assert str(tmp_path) not in "".join(problems)
    assert gateway.pool() is pool
    assert await text(gateway) == "Hello world"


async def test_a_backend_of_which_only_the_key_changed_gets_the_new_key(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)

    def keyed(key: str) -> Settings:
        backend = BackendSettings(url=engine.url).with_key(SecretStr(key))
        model = ModelSettings(name="m", backends=(backend,))
        return gateway.app.settings.model_copy(update={"models": (model,)})

    for key in ("one", "two"):
        gateway.read = lambda key=key: keyed(key)  # type: ignore[misc]
        assert "m.backends" in (await reload(gateway))["changed"]
        await text(gateway)
        assert engine.requests[-1].headers["authorization"] == f"Bearer {key}"


async def test_a_reload_during_a_drain_disturbs_nothing_that_runs(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    engine.script = Script(stall_after=1)
    running = asyncio.create_task(text(gateway))
    await engine.wait_for(lambda e: e.stalled == 1)
    gateway.server.stop()
    await gateway.until(lambda: gateway.app.in_flight.draining)
    gateway.written["models"] = [{"name": "n", "backends": [{"url": engine.url}]}]
    await reload(gateway)
    engine.resume()
    assert await running == "Hello world"


async def test_an_answer_with_an_idempotency_key_outlives_its_client_and_its_model(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with says("other") as other:
        gateway = await start_gateway(engine, environ=ADMIN)
        engine.script = Script(tokens=("a", "b", "c"), stall_after=1)
        headers = {"Idempotency-Key": "k"}
        body = chat(stream=True, model="m")
        async with gateway.http.post(gateway.url + "/llm", json=body, headers=headers) as begun:
            await begun.content.readline()
        gateway.written["models"].append({"name": "n", "backends": [{"url": other.url}]})
        gateway.written["models"][0]["backends"] = [{"url": other.url}]
        await reload(gateway)
        engine.resume()
        async with gateway.http.post(gateway.url + "/llm", json=body, headers=headers) as again:
            events = (await again.text()).strip().split("\n\n")
        said = [json.loads(e.split("data: ", 1)[1]) for e in events if "[DONE]" not in e]
        assert "".join(c["choices"][0]["delta"]["content"] for c in said) == "abc"


@pytest.mark.parametrize("running", [True, False])
async def test_an_answer_with_an_idempotency_key_is_given_again_though_its_model_is_gone(
    engine: ScriptedEngine, start_gateway: StartGateway, running: bool
) -> None:
    async with says("other") as other:
        gateway = await start_gateway(engine, environ=ADMIN)
        engine.script = Script(tokens=("a", "b", "c"), stall_after=1 if running else None)
        headers = {"Idempotency-Key": "k"}
        body = chat(stream=True, model="m")
        async with gateway.http.post(gateway.url + "/llm", json=body, headers=headers) as begun:
            first = await begun.content.readuntil(b"\n\n")
            if not running:
                first += await begun.read()
        gateway.written["models"] = [{"name": "n", "backends": [{"url": other.url}]}]
        assert (await reload(gateway))["removed"] == ["m"]
        resumed = {**headers, "Last-Event-ID": "1"}
        asked = [
            asyncio.create_task(gateway.http.post(gateway.url + "/llm", json=body, headers=sent))
            for sent in (headers, resumed)
        ]
        engine.resume()
        whole, rest = [await response for response in asked]
        assert (whole.status, rest.status) == (200, 200)
        assert whole.headers["Idempotent-Replayed"] == "true"
        text = await whole.text()
        assert text.startswith(first.decode())
        assert text.endswith("data: [DONE]\n\n")
        assert text.partition("\n\n")[2] == await rest.text()
        status, answer, _ = await gateway.post(chat(model="m"), headers={"Idempotency-Key": "new"})
        assert (status, answer["error"]["code"]) == (400, "model_not_found")
        assert len(engine.requests) == 1


class Backend(FakeBackend):
    """A backend that becomes ready, or fails, when a test says so."""

    stopped = False
    _on_change: Callable[[], None]

    async def start(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    def become(self, *, ready: bool = False, failure: str | None = None) -> None:
        self.ready, self.failure = ready, failure
        self._on_change()

    async def stop(self) -> None:
        self.stopped = True


async def registry_of(*backends: Backend) -> ModelRegistry:
    """A registry that has been started, with a model for each backend; the first is the default."""
    url = BackendSettings(url="http://127.0.0.1:9100/v1")
    models = tuple(ModelSettings(name=backend.name, backends=(url,)) for backend in backends)
    registry = ModelRegistry(
        Settings(models=models),
        backends=[(model, [backend]) for model, backend in zip(models, backends, strict=True)],
    )
    await registry.start()
    return registry


async def test_it_is_settled_once_the_default_model_can_answer() -> None:
    one, two = Backend("one", ready=False), Backend("two", ready=False)
    settled = asyncio.create_task((await registry_of(one, two)).wait_settled())
    two.become(ready=True)
    await asyncio.sleep(0.01)
    assert not settled.done()
    one.become(ready=True)
    assert await settled


async def test_it_is_settled_once_no_model_will_ever_answer() -> None:
    one, two = Backend("one", ready=False), Backend("two", ready=False)
    settled = asyncio.create_task((await registry_of(one, two)).wait_settled())
    one.become(failure="It ended with status 1.")
    await asyncio.sleep(0.01)
    assert not settled.done()
    two.become(failure="It ended with status 1.")
    assert not await settled


async def test_a_stop_ends_the_backends_of_earlier_configurations_too() -> None:
    one, two = Backend("one"), Backend("two")
    registry = await registry_of(one, two)
    with registry.models.find("two").deployment.held():
        await registry.apply(Settings(models=registry.settings.models[:1]))
        assert [model.name for model in registry.models.all] == ["one"]
        assert not two.stopped
        await registry.stop()
    assert (one.stopped, two.stopped) == (True, True)
