"""The access log: a line for each request, as programs read it that know web servers' logs."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from reverie.errors import ConfigurationError
from reverie.http import access_log
from reverie.settings import ServerSettings
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

KEY = "rv_key-of-the-access-log"
BEARER = {"Authorization": f"Bearer {KEY}"}
COMBINED = re.compile(
    r"(?P<client>\S+) - (?P<user>\S+) \[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}(?::\d\d){3} \+0000)\] "
    r'"(?P<request>[A-Z]+ \S+ HTTP/1\.[01])" (?P<status>\d{3}) (?P<bytes>\d+|-) '
    r'"(?P<referrer>[^"]*)" "(?P<agent>[^"]*)" '
    r'"(?P<id>[^"]+)" (?P<seconds>\d+\.\d{3}) (?P<prompt>\d+|-) (?P<completion>\d+|-) '
    r'"(?P<model>[^"]*)"'
)


class Logged:
    """A gateway and its access log."""

    def __init__(self, gateway: Gateway, file: Path) -> None:
        self.gateway = gateway
        self.file = file

    async def lines(self, count: int) -> list[dict[str, Any]]:
        """The lines, once there are so many: each comes after its answer."""
        async with asyncio.timeout(30):
            while len(written := self.file.read_text().splitlines()) < count:
                await asyncio.sleep(0.005)
        assert len(written) == count
        found = [COMBINED.fullmatch(line) for line in written]
        assert all(found), written
        return [one.groupdict() for one in found if one is not None]


@pytest.fixture
async def logged(engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path) -> Logged:
    server = {"access_log": str(tmp_path / "access.log"), "trusted_proxies": ["127.0.0.1"]}
    gateway = await start_gateway(engine, server=server, environ={"REVERIE_API_KEYS": KEY})
    return Logged(gateway, tmp_path / "access.log")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_s_line_has_who_asked_and_what_it_came_to(
    logged: Logged, stream: bool
) -> None:
    headers = {**BEARER, "X-Forwarded-For": "1.2.3.4, 198.51.100.7", "User-Agent": "a client/1"}
    gateway = logged.gateway
    url = f"{gateway.url}/v1/chat/completions"
    async with gateway.http.post(url, json=chat(stream=stream), headers=headers) as answer:
        body = await answer.read()
    [line] = await logged.lines(1)
    assert float(line.pop("seconds")) >= 0
    assert line.pop("time")
    assert line == {
        "client": "198.51.100.7",
        "user": "static-1",
        "request": "POST /v1/chat/completions HTTP/1.1",
        "status": "200",
        "bytes": str(len(body)),
        "referrer": "-",
        "agent": "a client/1",
        "id": answer.headers["X-Request-Id"],
        "prompt": line["prompt"],
        "completion": "2",
        "model": "m",
    }
    assert int(line["prompt"]) > 0


async def test_each_route_has_a_line_and_each_refusal(logged: Logged) -> None:
    gateway = logged.gateway
    asked = ["/health", "/v1/models", "//nowhere/", "/metrics", "/", "/docs"]
    statuses = [(await gateway.get(path, {"X-Request-Id": "mine"}))[0] for path in asked]
    statuses.append((await gateway.post(chat()))[0])
    async with gateway.http.head(gateway.url + "/healthz") as head:
        statuses.append(head.status)
    lines = await logged.lines(len(statuses))
    assert [int(line["status"]) for line in lines] == statuses
    paths = [line["request"].split()[1] for line in lines]
    assert paths == [*asked, "/llm", "/healthz"]
    assert {line["id"] for line in lines[: len(asked)]} == {"mine"}
    assert (lines[-1]["bytes"], statuses[-2]) == ("-", 401)


async def test_a_client_that_leaves_is_logged_as_such(
    logged: Logged, engine: ScriptedEngine
) -> None:
    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    asking = asyncio.create_task(logged.gateway.post(chat(), headers=BEARER))
    await engine.wait_for(lambda it: it.stalled == 1)
    asking.cancel()
    [line] = await logged.lines(1)
    assert line["status"] == "499"


async def test_no_line_has_a_secret_and_none_can_pose_as_another(logged: Logged) -> None:
    gateway = logged.gateway
    headers = {
        "Referer": f"https://me:secret-word@example.org/page?token={KEY}#{KEY}",
        "User-Agent": f'x" 200 1 "{KEY} Bearer {KEY} \\',
    }
    asked = {
        f"/v1/models?key={KEY}": "/v1/models",
        f"/{KEY}/v1/models": "/rv_***/v1/models",
        f"/v1/models%3Fkey%0D{KEY}": "/v1/models%3Fkey%0Drv_***",
        f"/a_{KEY}": "/a_rv_***",
        "/x%2Fsk-01234567890123": "/x%2Fsk-***",
        "/task-01234567890123": "/task-01234567890123",
        "/a%0A%22b": "/a%0A%22b",
    }
    for path in asked:
        await gateway.get(path, headers)
    for line, path in zip(await logged.lines(len(asked)), asked.values(), strict=True):
        assert line["request"] == f"GET {path} HTTP/1.1"
        assert line["referrer"] == "https://example.org/page"
        assert line["agent"] == r"x\x22 200 1 \x22rv_*** Bearer *** \x5c"
    text = logged.file.read_text()
    assert KEY not in text
    assert "secret-word" not in text


async def test_a_file_that_was_moved_away_is_written_anew(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "_LOOK_INTERVAL", -1.0)
    await logged.gateway.get("/health")
    await logged.lines(1)
    logged.file.rename(logged.file.with_suffix(".1"))
    await logged.gateway.get("/healthz")
    async with asyncio.timeout(30):
        while not logged.file.exists():
            await asyncio.sleep(0.005)
    [line] = await logged.lines(1)
    assert line["request"] == "GET /healthz HTTP/1.1"
    assert logged.file.stat().st_mode & 0o077 == 0o040


async def test_a_log_that_can_t_be_written_is_told_once_and_harms_no_request(
    logged: Logged, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "_LOOK_INTERVAL", -1.0)
    logged.file.unlink()
    logged.file.mkdir()
    for _ in range(3):
        assert (await logged.gateway.get("/health"))[0] == 200
    logged.file.rmdir()
    await logged.gateway.get("/healthz")
    async with asyncio.timeout(30):
        while not logged.file.exists():
            await asyncio.sleep(0.005)
    await logged.lines(1)
    said = [one for one in caplog.records if one.message == "the access log can't be written"]
    assert [vars(one)["fields"] for one in said] == [{"reason": os.strerror(21)}]


def test_a_log_that_can_t_be_opened_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    settings = ServerSettings(access_log=tmp_path / "no" / "such")
    with pytest.raises(ConfigurationError, match=r"server\.access_log: can't be written: "):
        access_log.access_log(_no_application, settings)


async def _no_application(*_: object) -> None:
    raise AssertionError
