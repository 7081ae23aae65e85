"""The routes of Ollama's API beside the answers."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway

KEYS = {"REVERIE_API_KEYS": "a-secret-key"}
HEADERS = {"Authorization": "Bearer a-secret-key"}


@pytest.fixture
async def keyed(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, environ=KEYS, server={"ollama": True})


async def call(
    gateway: Gateway, method: str, path: str, headers: dict[str, str] | None = None, **more: Any
) -> tuple[int, str]:
    async with gateway.http.request(
        method, gateway.url + path, headers=headers, **more
    ) as response:
        assert response.headers.getall("x-request-id")[1:] == []
        return response.status, await response.text()


async def test_clients_see_without_a_key_that_it_runs_and_in_which_version(keyed: Gateway) -> None:
    assert await call(keyed, "GET", "/") == (200, "Ollama is running")
    assert await call(keyed, "HEAD", "/") == (200, "")
    status, told, headers = await keyed.get("/api/version")
    assert (status, headers["content-type"]) == (200, "application/json")
    version = [int(part) for part in told["version"].split(".")]  # clients read it so
    assert len(version) == 3
    assert version >= [0, 14, 2]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/tags"), ("GET", "/api/ps"), ("POST", "/api/show"), ("POST", "/api/pull")],
)
async def test_what_is_told_of_models_takes_a_key(keyed: Gateway, method: str, path: str) -> None:
    status, body = await call(keyed, method, path, json={"model": "m"})
    assert status == 401
    assert body.startswith('{"error":"')


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:0123"),
    ],
)
async def test_managing_models_is_refused_with_what_to_do_instead(
    keyed: Gateway, method: str, path: str
) -> None:
    status, body = await call(keyed, method, path, HEADERS, json={"model": "m"})
    assert status == 403
    assert "Models are not managed over this API." in body
    assert (await call(keyed, "HEAD", "/api/blobs/sha256:0123", HEADERS)) == (403, "")


async def test_wrong_methods_and_routes_are_errors_of_one_text(keyed: Gateway) -> None:
    async with keyed.http.post(keyed.url + "/api/tags", headers=HEADERS) as response:
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
        assert list(await response.json()) == ["error"]
    assert (await call(keyed, "GET", "/api/show", HEADERS))[0] == 405
    for path in ("/api/nothing", "/api/blobbs/x", "/api/"):
        status, _ = await call(keyed, "GET", path, HEADERS)
        assert status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"model": 1}', 400),
        (b'{"model": ["m"]}', 400),
        (b'{"model": "other"}', 404),
        (b'{"model": "m"}', 200),
        (b'{"name": "m:latest"}', 200),
        (b'{"model": "alias"}', 200),
    ],
)
async def test_a_model_is_shown_by_its_name(keyed: Gateway, body: bytes, status: int) -> None:
    answered, shown, _ = await keyed.post(body, "/api/show", HEADERS)
    assert answered == status
    assert ("error" in shown) is (status != 200)


async def test_other_routes_are_what_they_were(keyed: Gateway) -> None:
    assert (await keyed.get("/health"))[1]["status"] == "OK"
    status, answer, _ = await keyed.get("/nowhere")
    assert (status, answer["error"]["code"]) == (404, "not_found")
