"""Who gets through to the admin routes, and with what body."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from reverie.gateway.accounts.authentication import Authenticator
from reverie.http.access import Access
from reverie.http.admin import guard
from reverie.http.admin.guard import Guard
from reverie.http.connection.exchange import Receive, Scope, Send
from tests.http.admin.harness import ADMIN, AS_ADMIN, KEYS, ON_SQLITE, USER, error_of, make

ACCESS = Access(Authenticator([(USER, "user")], admin_key=ADMIN), open_to_all=True)


class Guarded:
    """An application that answers 200, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append((scope["path"], await receive()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def ask(
    app: Guarded,
    method: str,
    path: str,
    headers: dict[str, str],
    receive: Receive,
    root: str = "",
) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
    }
    await Guard(app, ACCESS)(scope, receive, send)
    return answers[0]["status"], json.loads(answers[1]["body"]), answers[0]["headers"]


async def no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PUT"])
@pytest.mark.parametrize(
    "path", [KEYS, f"{KEYS}/key_1", "/admin/v1/usage?by=nonsense", "/admin/v1/nothing", "/admin/v1"]
)
@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        ({}, (401, "invalid_api_key")),
        ({"Authorization": "Bearer wrong"}, (401, "invalid_api_key")),
        ({"Authorization": "Bearer a-user"}, (403, "forbidden")),
    ],
)
async def test_without_the_admin_key_nothing_is_done_or_even_read(
    method: str, path: str, sent: dict[str, str], refusal: tuple[int, str]
) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    guarded = Guarded()
    status, answer, headers = await ask(guarded, method, path, sent, receive)
    assert (status, answer["error"]["code"]) == refusal
    assert (b"cache-control", b"no-store") in headers
    assert not guarded.asked


@ON_SQLITE
async def test_a_user_s_key_from_the_store_may_not_either(client: httpx2.AsyncClient) -> None:
    made = await make(client)
    answer = await client.get(KEYS, headers={"Authorization": f"Bearer {made['secret']}"})
    assert error_of(answer) == (403, "forbidden", None)


async def test_the_admin_key_opens_every_route_and_no_answer_may_be_stored() -> None:
    guarded = Guarded()
    status, _, headers = await ask(guarded, "GET", KEYS, AS_ADMIN, no_body)
    assert (status, [path for path, _ in guarded.asked]) == (200, [KEYS])
    assert (b"cache-control", b"no-store") in headers


@pytest.mark.parametrize(
    ("root", "path"), [("/mounted", f"/mounted{KEYS}"), ("/mounted", KEYS), (KEYS[:-1], KEYS)]
)
async def test_they_are_guarded_where_another_application_mounts_this_one(
    root: str, path: str
) -> None:
    guarded = Guarded()
    assert (await ask(guarded, "GET", path, {}, no_body, root))[0] == 401
    assert not guarded.asked


@pytest.mark.parametrize("path", ["/health", "/admin/v10", "/admin"])
async def test_other_routes_are_left_alone(path: str) -> None:
    guarded = Guarded()
    status, _, headers = await ask(guarded, "GET", path, {}, no_body)
    assert (status, [path for path, _ in guarded.asked], headers) == (200, [path], [])


@ON_SQLITE
async def test_a_body_is_json_whatever_its_client_calls_it(client: httpx2.AsyncClient) -> None:
    for number, kind in enumerate(("application/x-www-form-urlencoded", "text/plain", "")):
        raw = json.dumps({"name": f"k{number}"}).encode()
        answer = await client.post(KEYS, content=raw, headers={"Content-Type": kind})
        assert answer.status_code == 201


@ON_SQLITE
async def test_a_body_that_is_too_large_is_413(client: httpx2.AsyncClient) -> None:
    answer = await client.post(KEYS, json={"name": "n", "models": ["x" * 100] * 5000})
    assert error_of(answer) == (413, "request_too_large", None)


async def test_a_body_that_is_too_slow_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODY_TIMEOUT", 0.01)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    guarded = Guarded()
    status, answer, _ = await ask(guarded, "POST", KEYS, AS_ADMIN, receive)
    assert (status, answer["error"]["code"]) == (408, "request_timeout")
    assert not guarded.asked
