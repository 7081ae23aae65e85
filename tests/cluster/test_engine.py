"""One engine of the cluster, as its actor and gateways see it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from reverie.cluster import engine
from reverie.cluster.engine import EngineHost
from reverie.cluster.messages import EngineInfo, EngineSpec
from reverie.runner.supervisor import Runner
from reverie.settings import ModelSettings
from tests.cluster.engines import scripted, text_of
from tests.models.gguf_file import SMALL
from tests.models.hub_server import HubServer

StartHost = Callable[..., Awaitable[EngineHost]]

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "temperature": 0}

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "home"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture
async def start_host() -> AsyncIterator[StartHost]:
    """Start engines: ``await start_host(spec, ports=…)``."""
    async with AsyncExitStack() as stack:

        async def start(spec: EngineSpec, **options: Any) -> EngineHost:
            host = EngineHost("m/0", "uid", spec, **({"host": "127.0.0.1"} | options))
            stack.push_async_callback(host.stop)
            await host.start()
            return host

        yield start


async def until(host: EngineHost, *states: str) -> EngineInfo:
    """What an engine tells once it is in one of these states, as whoever watches it gets it."""
    info = await host.watch(0)
    async with asyncio.timeout(60):
        while info.state not in states:
            assert states == ("failed",) or info.state != "failed", info.why
            info = await host.watch(info.revision)
    return info


async def ask(
    info: EngineInfo, path: str = "/chat/completions", body: Any = None, *, key: str | None = None
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {info.key if key is None else key}"}
    method = "GET" if body is None else "POST"
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, info.url + path, json=body, headers=headers) as response,
    ):
        return response.status, json.loads(await response.read())


def pid_of(host: EngineHost) -> int:
    runner = host._runner
    assert isinstance(runner, Runner)
    assert runner.pid is not None
    return runner.pid


async def test_answers_whoever_has_its_key_on_its_machines_address(
    start_host: StartHost, tmp_path: Path
) -> None:
    host = await start_host(scripted(tmp_path, slots=3, context=512, kv_tokens=1024))
    info = await until(host, "ready")
    assert info.url.startswith("http://127.0.0.1:")
    assert (info.uid, info.slots, info.context, info.kv_tokens) == ("uid", 3, 512, 1024)
    assert (info.memory > 0, info.why) == (True, "")
    assert 0 < (info.seconds_to_ready or 0) < 60

    status, answer = await ask(info, body=HELLO)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, text_of(5))
    assert (await ask(info, body=HELLO, key=""))[0] == 401
    assert (await ask(info, "/models", key="x" * len(info.key)))[0] == 401

    pid = pid_of(host)
    await host.stop()
    await host.stop()
    assert not exists(f"/proc/{pid}")
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(info, body=HELLO)


async def test_tells_its_memory_and_bounds_before_it_is_loaded(
    start_host: StartHost, tmp_path: Path
) -> None:
    host = await start_host(scripted(tmp_path, load_seconds=0.5, cache_mib=1))
    info = await host.watch(0)
    while info.memory == 0:
        info = await host.watch(info.revision)
    assert info.state == "loading"
    assert (info.memory >= 2**20, info.slots, info.context) == (True, 4, 2048)
    later = await until(host, "ready")
    assert later.revision > info.revision


async def test_a_watch_is_answered_though_nothing_changes(
    start_host: StartHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await start_host(scripted(tmp_path))
    info = await until(host, "ready")
    watching = asyncio.create_task(host.watch(info.revision))
    await asyncio.sleep(0.05)
    assert not watching.done()
    watching.cancel()
    monkeypatch.setattr(engine, "WATCH", 0.05)
    assert await host.watch(info.revision) == info


async def test_a_killed_engine_comes_back_where_it_was(
    start_host: StartHost, tmp_path: Path
) -> None:
    host = await start_host(scripted(tmp_path))
    before = await until(host, "ready")
    os.kill(pid_of(host), signal.SIGKILL)
    died = await until(host, "restarting")
    assert "m/0 died" in died.why
    after = await until(host, "ready")
    assert (after.url, after.key, after.why) == (before.url, before.key, "")
    assert after.revision > died.revision > before.revision
    assert (await ask(after, body=HELLO))[0] == 200


async def test_an_engine_whose_port_was_taken_meanwhile_tells_its_new_url(
    start_host: StartHost, tmp_path: Path
) -> None:
    host = await start_host(scripted(tmp_path))
    before = await until(host, "ready")
    os.kill(pid_of(host), signal.SIGKILL)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            try:
                thief.bind(("127.0.0.1", int(before.url.split(":")[2].partition("/")[0])))
                thief.listen()
                break
            except OSError:
                await asyncio.sleep(0)
        await until(host, "restarting")
        after = await until(host, "ready")
    assert after.url != before.url
    assert after.key == before.key
    assert (await ask(after, body=HELLO))[0] == 200


async def test_nobody_finds_the_key_beside_it(
    start_host: StartHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    host = await start_host(scripted(tmp_path))
    other = await start_host(scripted(tmp_path))
    info, other_info = await until(host, "ready"), await until(other, "ready")
    assert len(info.key) > 30
    assert info.key != other_info.key
    runner = host._runner
    assert runner is not None
    key_file = runner.endpoint.key_file
    assert held_in(Path(key_file)) == info.key
    told = [*process_of(pid_of(host)), caplog.text, repr(info), repr(host), repr(runner._options)]
    assert info.key not in "".join(told)
    assert not any(info.key in value for value in os.environ.values())
    await host.stop()
    assert not exists(key_file)


def exists(path: str) -> bool:
    return Path(path).exists()


def held_in(private: Path) -> str:
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.parent.stat().st_mode & 0o777 == 0o700
    return private.read_text()


def process_of(pid: int) -> list[str]:
    """What anybody on a machine, or a child, may see of a process."""
    return [Path(f"/proc/{pid}/{file}").read_text() for file in ("cmdline", "environ")]


async def test_engines_share_the_ports_of_a_machine(start_host: StartHost, tmp_path: Path) -> None:
    first = free_ports(2)
    ports = range(first, first + 2)
    spec = scripted(tmp_path)
    hosts = [await start_host(spec, ports=ports) for _ in range(2)]
    urls = [(await until(host, "ready")).url for host in hosts]
    assert sorted(urls) == [f"http://127.0.0.1:{port}/v1" for port in ports]
    third = await start_host(spec, ports=ports)
    await hosts[0].stop()
    assert (await until(third, "ready")).url == urls[0]


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for first in range(21000, 31000, number):
        sockets = []
        try:
            for port in range(first, first + number):
                sockets.append(socket.create_server(("127.0.0.1", port)))
            return first
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise AssertionError("no free ports")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"source": "/nowhere/m.gguf"}, "/nowhere/m.gguf is not on this machine: put it there"),
        ({"engine": "/nowhere/server"}, "/nowhere/server is neither"),
        ({"source": f"/{'m' * 300}.gguf"}, "can't be used on this machine: File name too long."),
        ({"task": "rerank"}, "small.gguf isn't made to rank documents"),
    ],
)
async def test_what_can_not_run_here_is_told_in_a_sentence(
    start_host: StartHost, tmp_path: Path, settings: dict[str, str], why: str
) -> None:
    host = await start_host(scripted(tmp_path, **settings))
    info = await until(host, "failed")
    assert why in info.why


async def test_an_address_of_another_machine_is_told(
    start_host: StartHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverie.runner.supervisor._FIRST_DELAY", 0.001)
    host = await start_host(scripted(tmp_path), host="192.0.2.7")
    info = await until(host, "failed")
    assert info.why == "192.0.2.7 is no address of this machine."


async def test_a_model_that_would_not_fit_is_not_started(
    start_host: StartHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "available_memory", lambda: 700_000_000)
    spec = scripted(tmp_path, cache_mib=1000)
    host = await start_host(spec)
    info = await until(host, "failed")
    assert "m needs about 1.0 GB of memory, and this machine has 0.7 GB to give" in info.why
    assert info.memory > 10**9
    assert host._runner is not None
    assert host._runner.pid is None

    on_gpus = await start_host(EngineSpec(spec.model, spec.settings, gpus=1))
    await until(on_gpus, "ready")


async def test_an_engine_that_is_stopped_at_any_moment_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    spec = scripted(tmp_path, load_seconds=60)
    for moment in (0.0, 0.01, 0.05, 0.2, 0.5):
        host = EngineHost("m/0", "uid", spec, host="127.0.0.1")
        await host.start()
        await asyncio.sleep(moment)
        await host.stop()
        assert list((tmp_path / "tmp").iterdir()) == []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(repos={"owner/repo": {"m.gguf": SMALL + bytes(2**20)}}) as hub:
        hub.use(monkeypatch, tmp_path / "hf")
        cache = str(tmp_path / "hf" / "hub")  # it looked at the variable when it was imported
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
        yield hub


async def test_engines_that_start_at_once_fetch_their_model_once(
    start_host: StartHost, hub: HubServer, tmp_path: Path
) -> None:
    spec = scripted(tmp_path, source="hf:owner/repo/m.gguf")
    hosts = [await start_host(spec) for _ in range(3)]
    fetching = await until(hosts[0], "fetching")
    assert fetching.why == "hf:owner/repo/m.gguf is being fetched."
    for host in hosts:
        assert (await until(host, "ready")).why == ""
    assert len(hub.cdn.requests) == 1
    again = await start_host(spec)
    await until(again, "ready")
    assert len(hub.cdn.requests) == 1


async def test_an_engine_whose_model_can_not_be_fetched_says_why(
    start_host: StartHost, hub: HubServer, tmp_path: Path
) -> None:
    host = await start_host(scripted(tmp_path, source="hf:owner/repo/other.gguf"))
    assert (await until(host, "failed")).why == "owner/repo holds no file other.gguf."


async def test_an_engine_that_is_stopped_while_its_model_comes_ends_the_download(
    start_host: StartHost,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(engine, "_PROGRESS", 0)
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(60)

    hub.repos["owner/repo"]["m.gguf"] = SMALL + bytes(30_000_000)
    hub.cdn.after_bytes = (20_000_000, hold)
    host = await start_host(scripted(tmp_path, source="hf:owner/repo/m.gguf"))
    try:
        assert await asyncio.to_thread(reached.wait, 60)
        async with asyncio.timeout(10):
            await host.stop()
    finally:
        go_on.set()
    assert not unfinished(tmp_path / "hf")
    told = [r.fields for r in caplog.records if r.message == "model is being fetched"]  # type: ignore[attr-defined]
    assert any(one.get("of", 0) > 30_000_000 for one in told)


def unfinished(folder: Path) -> list[Path]:
    return list(folder.rglob("*.incomplete"))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_needs_no_main_thread(tmp_path: Path, new_loop: Any) -> None:
    """An actor of Ray has its loop in another thread."""
    told: list[EngineInfo] = []

    async def live() -> None:
        host = EngineHost("m/0", "uid", scripted(tmp_path), host="127.0.0.1")
        await host.start()
        try:
            told.append(await until(host, "ready"))
            os.kill(pid_of(host), signal.SIGKILL)
            told.append(await until(host, "restarting"))
            told.append(await until(host, "ready"))
            told.append(EngineInfo(*[str((await ask(told[-1], body=HELLO))[0])], 0, "ready"))
        finally:
            await host.stop()

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(live())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert [info.state for info in told] == ["ready", "restarting", "ready", "ready"]
    assert told[-1].uid == "200"


@pytest.mark.real
async def test_a_real_engine_answers_as_the_one_on_this_machine_does(
    start_host: StartHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REVERIE_HOME")
    small = {"slots": 2, "context": 1024, "kv_tokens": 2048, "cache_mib": 0}
    settings = ModelSettings(name="m", source="smollm2-135m", **small)
    host = await start_host(EngineSpec.of(settings))
    info = await until(host, "ready")
    assert (info.slots, info.context) == (2, 1024)
    for path in ("/models", "/../slots", "/../props"):
        assert (await ask(info, path, key="wrong"))[0] == 401
    assert (await ask(info, body=HELLO, key=""))[0] == 401
    request = HELLO | {"max_tokens": 40, "model": "m"}
    status, answer = await ask(info, body=request)
    assert status == 200
    assert answer["model"] == "m"

    assert host._runner is not None
    local = Runner("m", host._runner.model, settings)
    await local.start()
    try:
        await local.wait_ready(60)
        connector = aiohttp.UnixConnector(str(local.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.post("http://engine/v1/chat/completions", json=request) as response,
        ):
            there = await response.json()
    finally:
        await local.stop()
    assert answer["choices"] == there["choices"]
    assert answer["usage"] == there["usage"]
