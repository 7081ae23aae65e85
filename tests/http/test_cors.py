"""Pages and desktop apps that the operator allows call from a browser; others don't."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.http.cors import Cors
from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

PAGE = "https://chat.example.org"
KEYED = {"REVERIE_API_KEYS": "right"}


@pytest.mark.parametrize(
    ("allowed", "origin", "allows"),
    [
        (["*"], PAGE, True),
        ([PAGE], PAGE, True),
        ([PAGE], "HTTPS://Chat.Example.org", True),
        ([PAGE], "https://chat.example.org.evil", False),
        ([PAGE], "https://evil-chat.example.org", False),
        ([PAGE], "http://chat.example.org", False),
        ([PAGE], "null", False),
        (["null"], "null", True),
        (["app://obsidian.md", "tauri://localhost"], "tauri://localhost", True),
        (["http://localhost:*"], "http://localhost:5173", True),
        (["http://localhost:*"], "http://localhost", True),
        (["http://localhost:*"], "https://localhost:1", False),
        (["http://localhost:*"], "http://localhost:", False),
        (["http://localhost:*"], "http://localhost:\u00b2", False),
        (["http://localhost:*"], "http://localhost.evil", False),
        (["http://localhost:*"], "http://localhost:5173.evil", False),
        ([], PAGE, False),
    ],
)
def test_an_origin_is_allowed_as_it_is_written(
    allowed: list[str], origin: str, allows: bool
) -> None:
    assert Cors(allowed).allows(origin.encode()) is allows


async def start(
    start_gateway: StartGateway, engine: ScriptedEngine, *origins: str, **more: Any
) -> Gateway:
    return await start_gateway(engine, server={"allow_origins": list(origins)}, **more)


@pytest.mark.parametrize("path", ["/llm", "/v1/chat/completions", "/v1/models", "/nowhere"])
async def test_a_preflight_is_answered_before_anybody_is_asked_for_a_key(
    engine: ScriptedEngine, start_gateway: StartGateway, path: str
) -> None:
    gateway = await start(start_gateway, engine, PAGE, environ=KEYED)
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x_api_key,x-stainless-lang",
        "X-Request-Id": "mine",
        "Access-Control-Request-Private-Network": "true",
    }
    async with gateway.http.options(gateway.url + path, headers=asked) as response:
        headers = response.headers
        assert (response.status, await response.read()) == (204, b"")
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert headers["Access-Control-Allow-Headers"] == asked["Access-Control-Request-Headers"]
    assert headers["Access-Control-Allow-Private-Network"] == "true"
    assert headers["Vary"] == "Origin"
    assert headers["X-Request-Id"] == "mine"
    assert "Content-Length" not in headers


@pytest.mark.parametrize(
    ("key", "body", "status"),
    [("right", chat(), 200), ("wrong", chat(), 401), ("right", {}, 422), ("right", "stream", 200)],
)
async def test_every_answer_may_be_read_with_our_headers(
    engine: ScriptedEngine, start_gateway: StartGateway, key: str, body: Any, status: int
) -> None:
    gateway = await start(start_gateway, engine, PAGE, environ=KEYED)
    sent = {"Origin": PAGE, "Authorization": f"Bearer {key}"}
    body = chat(stream=True) if body == "stream" else body
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=sent) as response:
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        exposed = response.headers["Access-Control-Expose-Headers"].lower()
    for name in ("x-request-id", "retry-after", "x-ratelimit-remaining-tokens"):
        assert name in exposed


@pytest.mark.parametrize("origins", [(), (PAGE,)])
async def test_others_get_no_such_headers(
    engine: ScriptedEngine, start_gateway: StartGateway, origins: tuple[str, ...]
) -> None:
    gateway = await start(start_gateway, engine, *origins, environ=KEYED)
    sent = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with gateway.http.options(gateway.url + "/llm", headers=sent) as response:
        assert response.status in (401, 405)
        assert not [name for name in response.headers if name.lower().startswith("access-control")]
        assert response.headers.get("Vary") == ("Origin" if origins else None)


async def test_a_wrong_method_is_told_of_preflights_where_they_are_answered(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start(start_gateway, engine, PAGE)
    for path, allowed in (("/llm", "POST, OPTIONS"), ("/v1/models", "GET, HEAD, OPTIONS")):
        async with gateway.http.delete(gateway.url + path) as response:
            assert (response.status, response.headers["Allow"]) == (405, allowed)


async def test_a_page_that_is_allowed_counts_as_local_while_there_is_no_key(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start(start_gateway, engine, "app://obsidian.md")
    for origin, status in (("app://obsidian.md", 200), ("https://evil.example", 403)):
        assert (await gateway.post(chat(), headers={"Origin": origin}))[0] == status
