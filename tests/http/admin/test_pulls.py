"""Models are fetched over the admin API, from a hub and an index on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reverie.models import catalogue
from reverie.models.download import PROGRAM
from tests.harness import Gateway, StartGateway
from tests.models.file_server import FileServer
from tests.models.gguf_file import SMALL
from tests.models.hub_server import HubServer
from tests.models.package_index import MODEL, entry_of, names, pip_settings, publish
from tests.reloading import ADMIN, AS_ADMIN

BYTES = SMALL + bytes(range(256)) * 100_000
PULL, PULLS, CANCEL = (f"/admin/v1/models/{end}" for end in ("pull", "pulls", "pull/cancel"))
_TINY = """
from reverie.models import catalogue, disk, fetching
from reverie.models.catalogue import CatalogueEntry, WheelOrigin
catalogue.CATALOGUE = ({entry!r},)
disk._RESERVE = 0
fetching.main()
"""
"""Fetches with this entry as the catalogue."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    repos = {f"owner/{name}": {"m.Q4_0.gguf": BYTES} for name in "abc"}
    with HubServer(repos=repos) as hub:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1,localhost")
        yield hub


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def held(hub: HubServer) -> Iterator[None]:
    """The hub stops in the middle of each file, until the test ends."""
    go_on = threading.Event()
    hub.cdn.after_bytes = (12_000_000, lambda: go_on.wait(60))
    yield
    go_on.set()


@pytest.fixture
async def gateway(start_gateway: StartGateway, hub: HubServer) -> Gateway:
    backend = {"url": "http://127.0.0.1:9"}
    return await start_gateway(environ=ADMIN, models=[{"name": "m", "backends": [backend]}])


async def ask(gateway: Gateway, path: str, source: Any) -> tuple[int, Any]:
    status, answer, _ = await gateway.post({"source": source}, path, AS_ADMIN)
    return status, answer


async def listed(gateway: Gateway) -> list[dict[str, Any]]:
    status, answer, _ = await gateway.get(PULLS, AS_ADMIN)
    assert (status, answer["object"]) == (200, "list")
    return list(answer["data"])


async def ended(gateway: Gateway, source: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            (found,) = [one for one in await listed(gateway) if one["source"] == source]
            if found["state"] != "running":
                return found
            await asyncio.sleep(0.05)


async def halfway(gateway: Gateway, source: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            (found,) = [one for one in await listed(gateway) if one["source"] == source]
            assert found["state"] == "running", found
            if found["done"]:
                return found
            await asyncio.sleep(0.05)


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            found |= set(map(int, (task / "children").read_text().split()))
    return found


async def test_a_model_of_the_hub_is_fetched_and_is_here_afterwards(
    gateway: Gateway, tmp_path: Path
) -> None:
    source = "hf:owner/a/m.Q4_0.gguf"
    status, begun = await ask(gateway, PULL, source)
    assert status == 202
    assert begun == {
        "source": source,
        "state": "running",
        "done": 0,
        "total": None,
        "bytes_per_second": None,
        "error": None,
        "began_at": begun["began_at"],
    }
    done = await ended(gateway, source)
    assert (done["state"], done["done"], done["total"]) == ("done", len(BYTES), len(BYTES))
    (file,) = (tmp_path / "hf").rglob("m.Q4_0.gguf")
    assert file.read_bytes() == BYTES
    assert (await ask(gateway, PULL, source))[1]["state"] == "running"
    await gateway.until(lambda: not gateway.app._pulls.running)
    again, first = await listed(gateway)
    assert (again["state"], again["total"], first) == ("done", len(BYTES), done)


@pytest.mark.usefixtures("held")
async def test_a_download_is_seen_and_shared_and_ends_when_it_is_cancelled(
    gateway: Gateway, tmp_path: Path
) -> None:
    source, before = "hf:owner/a", children()
    begun = (await ask(gateway, PULL, source))[1]
    half = await halfway(gateway, source)
    assert 0 < half["done"] < half["total"] == len(BYTES)
    assert half["bytes_per_second"] > 0
    assert (await ask(gateway, PULL, source))[1]["began_at"] == begun["began_at"]
    assert len(await listed(gateway)) == 1
    live = (await gateway.get("/admin/v1/live", AS_ADMIN))[1]
    assert [one["source"] for one in live["pulls"]] == [source]
    status, cancelled = await ask(gateway, CANCEL, source)
    assert (status, cancelled["state"], cancelled["error"]) == (200, "cancelled", None)
    assert children() == before
    assert not list((tmp_path / "hf").rglob("*.gguf"))
    status, answer = await ask(gateway, CANCEL, source)
    assert (status, answer["error"]["code"]) == (404, "not_found")


@pytest.mark.usefixtures("held")
async def test_two_run_at_once_and_a_stop_ends_them(gateway: Gateway) -> None:
    before = children()
    for name in "ab":
        assert (await ask(gateway, PULL, f"hf:owner/{name}"))[0] == 202
    status, answer = await ask(gateway, PULL, "hf:owner/c")
    assert (status, answer["error"]["code"]) == (409, "conflict")
    assert "hf:owner/a and hf:owner/b" in answer["error"]["message"]
    await halfway(gateway, "hf:owner/a")
    async with asyncio.timeout(10):
        await gateway.app._pulls.stop()
    assert [one["state"] for one in await listed(gateway)] == ["cancelled"] * 2
    assert children() == before
    assert (await ask(gateway, PULL, "hf:owner/c"))[0] == 503


async def test_what_is_cancelled_at_once_never_began(gateway: Gateway) -> None:
    pull = gateway.app._pulls.begin("hf:owner/a")
    await gateway.app._pulls.cancel("hf:owner/a")
    assert pull.state == "cancelled"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("hf:owner/none", "There is no repository owner/none"),
        ("hf:owner/a/other.gguf", "owner/a holds no file other.gguf."),
        ("hf:owner/page", "m.gguf is not a GGUF model file."),
    ],
)
async def test_a_download_that_fails_says_why(
    hub: HubServer, gateway: Gateway, source: str, why: str
) -> None:
    hub.repos["owner/page"] = {"m.gguf": b"<html>"}
    await ask(gateway, PULL, source)
    failed = await ended(gateway, source)
    assert failed["state"] == "failed"
    assert failed["error"].startswith(why)


async def test_a_process_that_is_killed_is_a_download_that_failed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(gateway.app._pulls, "_program", program)
    await ask(gateway, PULL, "hf:owner/a")
    failed = await ended(gateway, "hf:owner/a")
    assert (failed["state"], failed["error"]) == (
        "failed",
        "The download ended before it was complete. Try again.",
    )


async def test_the_last_twenty_that_ended_are_listed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.app._pulls, "_program", ("/nowhere/python",))
    for number in range(23):
        await ask(gateway, PULL, f"hf:owner/{number}")
        await ended(gateway, f"hf:owner/{number}")
    found = await listed(gateway)
    assert [one["source"] for one in found] == [f"hf:owner/{n}" for n in range(22, 2, -1)]
    assert found[0]["error"] == "The download can't be started: No such file or directory."


async def test_a_model_of_the_catalogue_is_fetched_with_pip(
    server: FileServer, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("REVERIE_HOME", str(home))
    for name, value in pip_settings(f"{server.url}/simple").items():
        monkeypatch.setenv(name, value)
    publish(server)
    entry = entry_of()
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    program = (sys.executable, "-c", _TINY.format(entry=entry))
    monkeypatch.setattr(gateway.app._pulls, "_program", program)
    assert (await ask(gateway, PULL, "owner/Tiny"))[1]["source"] == "tiny"
    assert (await ended(gateway, "tiny"))["state"] == "done"
    assert (home / "models" / "tiny.gguf").read_bytes() == MODEL


async def test_a_cancelled_download_of_pip_leaves_no_process_and_no_file(
    server: FileServer, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, before = tmp_path / "home", children()
    monkeypatch.setenv("REVERIE_HOME", str(home))
    for name, value in pip_settings(f"{server.url}/simple").items():
        monkeypatch.setenv(name, value)
    publish(server)
    entry = entry_of()
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    program = (sys.executable, "-c", _TINY.format(entry=entry))
    monkeypatch.setattr(gateway.app._pulls, "_program", program)
    go_on = threading.Event()
    server.after_bytes = (300_000, lambda: go_on.wait(60))
    await ask(gateway, PULL, "tiny")
    await halfway(gateway, "tiny")
    assert (await ask(gateway, CANCEL, "tiny"))[1]["state"] == "cancelled"
    go_on.set()
    assert children() == before
    assert names(home / "models") == []


@pytest.mark.usefixtures("held")
async def test_a_download_ends_with_whoever_started_it() -> None:
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        "hf:owner/a",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert b"total" in await process.stdout.readline()
        process.stdin.close()
        await process.wait()


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("/etc/passwd", "invalid_request"),
        ("./m.gguf", "invalid_request"),
        ("~/m.gguf", "invalid_request"),
        ("m.gguf", "invalid_request"),
        ("none", "invalid_request"),
        ("", "invalid_request"),
        ("hf:owner/../a", "invalid_request"),
        (5, "invalid_request"),
        (None, "invalid_request"),
    ],
)
async def test_what_names_no_model_is_refused(gateway: Gateway, source: Any, code: str) -> None:
    for path in (PULL, CANCEL):
        status, answer = await ask(gateway, path, source)
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, code, "source")
    assert await listed(gateway) == []


async def test_a_field_that_is_not_known_is_refused(gateway: Gateway) -> None:
    body = {"source": "smollm2-135m", "path": "/tmp"}
    status, answer, _ = await gateway.post(body, PULL, AS_ADMIN)
    assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")


async def test_the_catalogue_tells_what_can_be_fetched_and_what_fits(gateway: Gateway) -> None:
    status, answer, _ = await gateway.get("/admin/v1/models/catalogue", AS_ADMIN)
    assert (status, answer["object"]) == (200, "list")
    memory = answer["memory_bytes"]
    assert memory > 0
    pinned, *others = answer["data"]
    assert (pinned["name"], pinned["pinned"], pinned["bytes"]) == (
        "smollm2-135m",
        True,
        98_362_432,
    )
    assert pinned["fits"]
    assert {one["task"] for one in others} == {"generate", "embed", "rerank"}
    assert not any(one["pinned"] or one["here"] for one in others)
    for one in others:
        assert one["source"].startswith("hf:")
        assert one["fits"] is (one["memory_bytes"] <= memory - memory // 8)
