"""Whatever a route raises, and whatever FastAPI itself refuses, has the one shape of an error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import httpx2
import pytest
from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict

from reverie.errors import AccountsUnavailable
from reverie.http.operations.errors import translate_errors


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: int
    inner: dict[str, int] = {}


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    translate_errors(app)

    @app.get("/fails")
    async def fails() -> None:
        raise AccountsUnavailable

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("secret words")

    @app.post("/body")
    async def body(body: Body, limit: Annotated[int, Query()] = 1) -> None:
        pass

    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nothing", (404, "not_found")),
        ("POST", "/fails", (405, "method_not_allowed")),
        ("GET", "/fails", (503, "overloaded")),
        ("GET", "/bug", (500, "internal_error")),
    ],
)
async def test_an_error_has_its_status_and_code(
    client: httpx2.AsyncClient, method: str, path: str, expected: tuple[int, str]
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == expected
    assert answer.json()["detail"] == {"msg": answer.json()["error"]["message"]}
    assert "secret" not in answer.text


async def test_its_headers_go_with_it(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/fails")).headers["allow"] == "GET, HEAD"
    assert int((await client.get("/fails")).headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("query", "raw", "param", "code"),
    [
        ("", b'{"count":"x"}', "count", "invalid_request"),
        ("", b"{}", "count", "invalid_request"),
        ("", b'{"count":1,"inner":{"a":"b"}}', "inner.a", "invalid_request"),
        ("", b'{"count":1,"other":2}', "other", "unsupported_parameter"),
        ("?limit=x", b'{"count":1}', "limit", "invalid_request"),
        ("", b'{"count":', None, "invalid_request"),
        ("", b"\xff", None, "invalid_request"),
        ("", b"[]", None, "invalid_request"),
        ("", b"", None, "invalid_request"),
        ("", b"[" * 100_000, None, "invalid_request"),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx2.AsyncClient, query: str, raw: bytes, param: str | None, code: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"/body{query}", content=raw, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


async def test_a_name_that_a_client_chose_is_clipped(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/body", json={"count": 1, "x" * 10_000: 1})
    assert answer.json()["error"]["param"] == "x" * 100
