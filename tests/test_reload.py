"""The configuration is read again: what is applied, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reverie.settings import Settings, load
from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway, chat
from tests.ports import free_port
from tests.reloading import ADMIN, AS_ADMIN, RELOAD, refused, reload, text


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
    gateway.read = lambda: load(file, environ={}, is_reload=True)
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


async def test_a_file_that_has_become_empty_is_refused(
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


async def test_a_file_that_was_empty_may_stay_empty(
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


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_stop_does_not_wait_for_a_reload_or_its_preview_that_hangs(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hanging: threading.Event,
    method: str,
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
        asyncio.create_task(gateway.http.request(method, gateway.url + RELOAD, headers=AS_ADMIN))
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


async def test_a_backend_that_is_the_server_itself_is_warned_of(
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
    assert (await gateway.get(RELOAD, AS_ADMIN))[0] == 200
    assert (await gateway.post({}, RELOAD + "?file=x", AS_ADMIN))[0] == 400
    assert (await reload(gateway))["changed"] == []


async def preview(gateway: Gateway) -> dict[str, Any]:
    status, answer, _ = await gateway.get(RELOAD, AS_ADMIN)
    assert status == 200, answer
    return dict(answer)


async def test_a_preview_tells_what_a_reload_would_change_and_changes_nothing(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    before = gateway.app.settings
    assert (await preview(gateway))["differences"] == []
    gateway.written["server"] |= {"queue_size": 5, "port": 1}
    gateway.written["store"] = {"url": "postgresql://me:a-secret@db/reverie"}
    gateway.written["models"][0]["price"] = {"input": "1USD"}
    gateway.written["models"].append({"name": "new", "backends": [{"url": engine.url}]})
    engine.requests.clear()
    told = await preview(gateway)
    assert told == {
        "object": "reload",
        "added": ["new"],
        "removed": [],
        "changed": ["m.price", "server.queue_size"],
        "needs_restart": ["server.port", "store.url"],
        "differences": [
            {
                "key": "new",
                "before": None,
                "after": f'{{ name = "new", backends = [{{ url = "{engine.url}" }}] }}',
            },
            {"key": "m.price", "before": "{}", "after": '{ input = "1USD" }'},
            {"key": "server.queue_size", "before": "128", "after": "5"},
            {"key": "server.port", "before": "0", "after": "1"},
            {
                "key": "store.url",
                "before": '"sqlite:///reverie.db"',
                "after": '"postgresql://me:***@db/reverie"',
            },
        ],
        "problems": [],
    }
    assert gateway.app.settings is before
    assert engine.requests == []
    del told["problems"]
    assert await reload(gateway) == told
    assert gateway.app.settings.server.queue_size == 5


async def test_a_preview_of_what_can_not_be_used_is_refused_like_its_reload(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    broken = tmp_path / "secret-folder" / "broken.gguf"
    broken.parent.mkdir()
    broken.write_bytes(b"no model")
    for source in (str(broken), "/nowhere/m.gguf", "hf:owner/none/m.gguf"):
        gateway.written["models"] = [{"name": "m", "source": source}]
        status, answer, _ = await gateway.get(RELOAD, AS_ADMIN)
        assert (status, answer["error"]["code"]) == (400, "invalid_request")
        assert answer["error"]["problems"] == await refused(gateway)
        assert "folder" not in answer["error"]["message"]
    assert await text(gateway) == "Hello world"
