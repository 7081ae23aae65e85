"""Every route that doesn't generate, over a scripted engine."""

from __future__ import annotations

import re

import pytest

import reverie
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

KEY = {"Authorization": "Bearer k"}


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/llm/models"])
async def test_models_are_listed_by_name_and_alias(gateway: Gateway, path: str) -> None:
    status, listed, _ = await gateway.get(path)
    assert (status, listed["object"]) == (200, "list")
    assert [entry["id"] for entry in listed["data"]] == ["m", "alias"]
    for entry in listed["data"]:
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
        assert entry["loaded"] is True
        assert (await gateway.get(f"{path}/{entry['id']}"))[:2] == (200, entry)


async def test_a_model_whose_name_holds_slashes_is_shown(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    models = [{"name": "owner/model", "backends": [{"url": engine.url}]}]
    gateway = await start_gateway(models=models)
    status, entry, _ = await gateway.get("/v1/models/owner/model")
    assert (status, entry["id"]) == (200, "owner/model")


@pytest.mark.parametrize(("name", "code"), [("nope", "model_not_found"), ("", "not_found")])
async def test_a_model_that_is_not_here_is_404(gateway: Gateway, name: str, code: str) -> None:
    status, answer, _ = await gateway.get(f"/v1/models/{name}")
    assert (status, answer["error"]["code"]) == (404, code)


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz"])
async def test_head_is_answered_as_get_is_without_the_body(
    gateway: Gateway, path: str, draining: bool
) -> None:
    gateway.app.in_flight.draining = draining
    status, _, headers = await gateway.get(path)
    async with gateway.http.head(gateway.url + path) as head:
        assert (head.status, await head.read()) == (status, b"")
        assert head.headers["content-length"] == headers["content-length"]


async def test_a_server_says_what_it_is(gateway: Gateway) -> None:
    about = {"pipeline": "llm", "model_id": "m"}
    assert (await gateway.get("/version"))[1] == {**about, "version": reverie.__version__}
    for path, gpus in (("/hardware/info", "gpu_info"), ("/hardware/stats", "gpu_stats")):
        status, body, _ = await gateway.get(path)
        assert status == 200
        assert about.items() <= body.items()
        assert isinstance(body[gpus], dict)
        assert body["cpu"]["cores"] >= 1
        assert 0 < body["memory"]["free"] <= body["memory"]["total"]


async def test_metrics_count_what_became_of_requests(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    await gateway.post(chat())
    await gateway.post(chat(max_tokens=1))
    await gateway.post(chat(temperature=9))
    engine.script = Script(status=500)
    await gateway.post(chat())
    status, text, headers = await gateway.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    for line in (
        'reverie_requests_total{model="m",outcome="ok",status="200"} 1.0',
        'reverie_requests_total{model="m",outcome="length",status="200"} 1.0',
        'reverie_requests_total{model="none",outcome="refused",status="422"} 1.0',
        'reverie_requests_total{model="m",outcome="failed",status="502"} 1.0',
        'reverie_tokens_total{direction="prompt",model="m"} 20.0',
        'reverie_tokens_total{direction="completion",model="m"} 3.0',
        'reverie_time_to_first_token_seconds_count{model="m"} 2.0',
        'reverie_request_duration_seconds_count{model="m"} 3.0',
        'reverie_queue_length{model="m"} 0.0',
    ):
        assert line in text.splitlines()
    for gauge, value in (("in_flight", 0), ("slots", 64), ("backend_ready", 1)):
        pattern = rf'^reverie_{gauge}\{{backend="0:127.0.0.1:\d+",model="m"\}} {value}\.0$'
        assert re.search(pattern, text, re.MULTILINE)


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
