"""Every route that doesn't generate, over a scripted engine."""

from __future__ import annotations

import re

from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway

KEY = {"Authorization": "Bearer k"}


async def test_the_documentation_page_needs_no_other_host(gateway: Gateway) -> None:
    status, page, _ = await gateway.get("/docs")
    assert status == 200
    assert "://" not in page
    parts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert parts
    for part in parts:
        async with gateway.http.get(gateway.url + part) as response:
            assert response.status == 200
    status, document, _ = await gateway.get("/openapi.json")
    assert (status, document["paths"]["/llm"]["post"]["operationId"]) == (200, "genLLM")


async def test_the_documentation_says_what_takes_a_key(gateway: Gateway) -> None:
    _, document, _ = await gateway.get("/openapi.json")
    security = {
        path: route.get("get", {}).get("security") for path, route in document["paths"].items()
    }
    for path in ("/v1/models", "/v1/models/{name}"):
        assert security[path] == [{"HTTPBearer": []}]
    for path in ("/metrics", "/hardware/info", "/hardware/stats"):
        assert security[path] == [{"HTTPBearer": []}, {}]
    for path in ("/health", "/healthz", "/readyz", "/version"):
        assert security[path] is None


async def test_with_keys_models_need_one_and_health_does_not(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "k"})
    status, answer, headers = await gateway.get("/v1/models")
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert headers["WWW-Authenticate"] == "Bearer"
    assert (await gateway.get("/v1/models", KEY))[0] == 200
    for path in ("/health", "/healthz", "/readyz", "/version", "/docs", "/openapi.json"):
        assert (await gateway.get(path))[0] == 200


async def test_every_answer_carries_a_request_id(gateway: Gateway) -> None:
    for path in ("/health", "/v1/models", "/v1/models/nope", "/nope", "/docs"):
        assert (await gateway.get(path))[2]["x-request-id"]
    assert (await gateway.get("/health", {"X-Request-Id": "mine"}))[2]["x-request-id"] == "mine"
