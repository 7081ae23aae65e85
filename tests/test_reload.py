"""A configuration that changes while requests run: nobody who is served notices."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from reverie.settings import BackendSettings, ModelSettings, Settings, load
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

ADMIN_KEY = "an-admin-key-of-good-length"
ADMIN = {"REVERIE_ADMIN_KEY": ADMIN_KEY}
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
RELOAD = "/admin/v1/reload"
TIMES = 50


async def reload(gateway: Gateway) -> dict[str, Any]:
    """Reload, which succeeds; gives what changed."""
    async with gateway.http.post(gateway.url + RELOAD, headers=AS_ADMIN) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
    return answer


async def refused(gateway: Gateway) -> list[str]:
    """Reload, which is refused; gives the problems."""
    async with gateway.http.post(gateway.url + RELOAD, headers=AS_ADMIN) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (400, "invalid_request")
    problems: list[str] = answer["error"]["problems"]
    assert all(problem in answer["error"]["message"] for problem in problems)
    return problems


async def text(gateway: Gateway, **request: Any) -> str:
    """The answer to a request, which succeeds."""
    status, answer, _ = await gateway.post(chat(**request))
    assert status == 200, answer
    content: str = answer["choices"][0]["message"]["content"]
    return content


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def says(*tokens: str) -> ScriptedEngine:
    return ScriptedEngine(Script(tokens=tokens))


async def test_models_come_go_and_change_and_the_default_moves(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with says("another") as other:
        gateway = await start_gateway(engine, environ=ADMIN)
        gateway.written["models"] = [
            {"name": "m", "aliases": ["second"], "backends": [{"url": other.url}]},
            {"name": "new", "backends": [{"url": engine.url}], "default": True},
        ]
        assert await reload(gateway) == {
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
        assert 'model="m"' not in (await gateway.get("/metrics"))[1].split("reverie_slots{", 1)[1]


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


async def test_new_timeouts_hold_for_a_backend_that_goes_on(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    pool = gateway.pool()
    gateway.written["server"] |= {"first_token_timeout": 0.1}
    await reload(gateway)
    assert gateway.pool() is pool
    engine.script = Script(first_delay=30)
    assert (await gateway.post(chat()))[1]["error"]["code"] == "backend_timeout"


async def test_a_stream_of_a_model_that_is_removed_goes_on_to_its_end(
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


async def test_those_who_wait_for_a_slot_of_a_model_that_changes_get_one(
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


async def test_a_file_that_is_wrong_changes_nothing_and_says_why(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    before = gateway.app.settings
    file = tmp_path / "secret-folder" / "reverie.toml"
    file.parent.mkdir()
    gateway.read = lambda: load(file, environ={})
    file.write_text('[server]\nqueue_size = -1\nnonsense = 1\n[[models]]\nname = "n"\n')
    with caplog.at_level(logging.ERROR, "reverie"):
        problems = await refused(gateway)
    assert [problem.split(": ")[:2] for problem in problems] == [
        ["reverie.toml", "server.queue_size"],
        ["reverie.toml", "server.nonsense"],
        ["reverie.toml", "models[0]"],
    ]
    assert f"{file}: server.queue_size" in caplog.records[-1].fields["reason"]  # type: ignore[attr-defined]
    file.write_text("[server\n")
    assert len(await refused(gateway)) == 1
    file.write_text('[store]\nurl = "mysql://me:secret@host/db"\n')
    (problem,) = await refused(gateway)
    assert problem.startswith("store.url: write ")
    assert "secret" not in problem
    file.unlink()
    assert await refused(gateway) == ["reverie.toml: there is no such file"]
    assert gateway.app.settings is before
    assert await text(gateway) == "Hello world"


async def test_a_pipe_in_the_files_place_is_refused_and_the_next_file_is_read(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    file, keys = tmp_path / "reverie.toml", tmp_path / "keys"
    server = {"api_keys_file": str(keys), "no_auth": True}
    keys.touch()
    gateway = await start_gateway(engine, environ=ADMIN, server=server)
    model = f'[[models]]\nname = "m"\n[[models.backends]]\nurl = "{engine.url}"\n'
    good = f'[server]\napi_keys_file = "{keys}"\n{model}'
    gateway.read = lambda: load(file, environ={}, again=True)
    for path, what in ((file, ""), (keys, "server.api_keys_file: ")):
        file.write_text(good)
        path.unlink()
        os.mkfifo(path)
        (problem,) = await refused(gateway)
        assert problem.startswith(f"{path.name}: {what}can't be read: it is not a regular file")
        path.unlink()
        path.write_text("#" * (1024 * 1024 + 1))
        (problem,) = await refused(gateway)
        assert problem == f"{path.name}: {what}can't be read: it is larger than 1 MiB"
        path.write_text("")
    file.write_text(good)
    await reload(gateway)
    assert await text(gateway) == "Hello world"


async def test_a_file_that_holds_nothing_any_more_is_not_taken_at_its_word(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    file = tmp_path / "reverie.toml"
    model = f'[[models]]\nname = "m"\n[[models.backends]]\nurl = "{engine.url}"\n'
    gateway.read = lambda: load(file, environ={})
    file.write_text(model)
    await reload(gateway)
    for nothing in ("", "\n# what was I going to write?\n", "[server]\n"):
        file.write_text(nothing)
        (problem,) = await refused(gateway)
        assert problem.startswith("reverie.toml: holds no key any more. If the default model")
        assert 'name = "smollm2-135m", source = "smollm2-135m"' in problem
        assert await text(gateway) == "Hello world"
    file.write_text('[[models]]\nname = "smollm2-135m"\nsource = "smollm2-135m"\nwarm = false\n')
    assert (await reload(gateway))["added"] == ["smollm2-135m"]


async def test_a_file_that_never_held_anything_may_stay_empty(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    file = tmp_path / "reverie.toml"
    file.write_text("")
    models = gateway.app.settings.models
    gateway.read = lambda: load(file, environ={}, models=models)
    assert (await reload(gateway))["removed"] == []


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Hangs whoever waits for it, until the test ends."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_reading_that_hangs_is_given_up_and_the_next_one_is_not_held_up(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
    hanging: threading.Event,
) -> None:
    monkeypatch.setattr("reverie.reload._READ_TIMEOUT", 0.05)
    gateway = await start_gateway(engine, environ=ADMIN)
    good = gateway.read

    def hang() -> Settings:
        hanging.wait()
        return Settings()

    gateway.read = hang
    for _ in range(40):  # more than there are threads for the rest
        assert await refused(gateway) == ["the configuration could not be read within 0.05 s"]
    gateway.read = good
    monkeypatch.undo()
    assert (await reload(gateway))["changed"] == []
    assert await text(gateway) == "Hello world"


async def test_a_stop_does_not_wait_for_a_reload_that_hangs(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hanging: threading.Event,
) -> None:
    monkeypatch.setattr("reverie.reload._READ_TIMEOUT", 3600)
    monkeypatch.setattr("reverie.reload._CLOSE_TIMEOUT", 0.1)
    gateway = await start_gateway(engine, environ=ADMIN)
    reads: list[None] = []

    def read() -> Settings:
        reads.append(None)
        hanging.wait()
        return Settings()

    gateway.read = read
    asked = [
        asyncio.create_task(gateway.http.post(gateway.url + RELOAD, headers=AS_ADMIN))
        for _ in range(3)
    ]
    await gateway.until(lambda: len(reads) == 1)
    gateway.server.stop()
    for task in asked:
        response = await task
        answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (503, "overloaded")
    assert len(reads) == 1
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_model_that_cannot_be_served_changes_nothing_and_all_of_them_are_told(
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


async def test_a_backend_that_is_the_server_itself_is_told(
    engine: ScriptedEngine, start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN, server={"port": free_port()})
    said = "a backend is this server itself"
    assert said not in caplog.messages
    gateway.written["models"].append({"name": "n", "backends": [{"url": gateway.url}]})
    await reload(gateway)
    assert caplog.messages.count(said) == 1
    other = free_port()
    itself = {"url": f"http://localhost:{other}"}
    await start_gateway(server={"port": other}, models=[{"name": "n", "backends": [itself]}])
    assert caplog.messages.count(said) == 2


async def test_what_needs_a_restart_is_named_until_it_is_undone(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    gateway.written["server"] |= {"host": "127.0.0.2", "port": 1, "no_auth": True, "queue_size": 9}
    store, gateway.written["store"] = gateway.written["store"], {"url": "sqlite:///other.db"}
    expected = ["server.host", "server.port", "server.no_auth", "store.url"]
    answer = await reload(gateway)
    assert (answer["changed"], answer["needs_restart"]) == (["server.queue_size"], expected)
    answer = await reload(gateway)
    assert (answer["changed"], answer["needs_restart"]) == ([], expected)
    assert await text(gateway) == "Hello world"
    gateway.written["server"] = {"port": 0, "queue_size": 9}
    gateway.written["store"] = store
    assert (await reload(gateway))["needs_restart"] == []


async def test_the_file_of_keys_is_read_again(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    file = tmp_path / "keys"

    def write(*keys: str) -> None:
        file.write_text("".join(hashlib.sha256(k.encode()).hexdigest() + "\n" for k in keys))

    async def allowed(key: str) -> bool:
        status, _, _ = await gateway.post(chat(), headers={"Authorization": f"Bearer {key}"})
        return status == 200

    write("one", "two")
    gateway = await start_gateway(engine, environ=ADMIN, server={"api_keys_file": str(file)})
    assert [await allowed("one"), await allowed("two")] == [True, True]
    write("two", "three")
    await reload(gateway)
    assert [await allowed(key) for key in ("one", "two", "three")] == [False, True, True]
    file.write_text("nonsense\n")
    assert "line 1" in (await refused(gateway))[0]
    assert await allowed("two")


async def test_a_backend_whose_key_alone_has_changed_is_sent_the_new_one(
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


async def test_a_reload_never_leaves_a_public_address_without_keys(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(hashlib.sha256(b"one").hexdigest())
    server = {"api_keys_file": str(file), "host": "0.0.0.0"}
    gateway = await start_gateway(engine, environ=ADMIN, server=server)
    file.write_text("")
    assert "no API key is set" in (await refused(gateway))[0]
    assert (await gateway.post(chat()))[0] == 401


async def test_reloads_happen_one_after_the_other(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    reading, at_once, turns = threading.Lock(), [], iter(range(100))

    def read() -> Settings:
        at_once.append(not reading.acquire(blocking=False))
        time.sleep(0.01)
        gateway.written["server"]["queue_size"] = 200 + next(turns)
        settings = Settings.model_validate(gateway.written)
        if not at_once[-1]:
            reading.release()
        return settings

    gateway.read = read
    await asyncio.gather(*(reload(gateway) for _ in range(10)))
    assert at_once == [False] * 10
    assert gateway.app.settings.server.queue_size == 209


async def test_only_the_admin_key_reloads(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    environ = {**ADMIN, "REVERIE_API_KEYS": "user"}
    gateway = await start_gateway(engine, environ=environ, store={"url": "none"})
    assert (await gateway.post({}, RELOAD))[0] == 401
    assert (await gateway.post({}, RELOAD, {"Authorization": "Bearer user"}))[0] == 403
    assert (await gateway.get(RELOAD, AS_ADMIN))[0] == 405
    assert (await gateway.post({}, RELOAD + "?file=x", AS_ADMIN))[0] == 400
    assert (await reload(gateway))["changed"] == []


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
