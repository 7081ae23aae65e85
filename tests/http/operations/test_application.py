"""Every route that doesn't generate, over a scripted engine."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest
from yarl import URL

from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

KEY = {"Authorization": "Bearer k"}


async def test_the_documentation_page_needs_no_other_host(gateway: Gateway) -> None:
    status, page, _ = await gateway.get("/docs")
    assert status == 200
    assert "://" not in page
    parts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert parts
    for part in parts:
        async with gateway.http.get(f"{gateway.url}/{part}") as response:
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


@pytest.mark.parametrize("page", ["/docs", "/docs/", "//redoc/"])
async def test_the_documentations_links_hold_under_any_prefix(gateway: Gateway, page: str) -> None:
    """A proxy may serve this server under a path of its own."""
    _, text, _ = await gateway.get(page)
    links = re.findall(r"""(?:src|href|spec-url)=["']([^"']+)["']|url: ['"]([^'"]+)""", text)
    targets = [urljoin(f"https://proxy.example/prefix{page}", one or other) for one, other in links]
    assert "https://proxy.example/prefix/openapi.json" in [
        target.replace("prefix//", "prefix/") for target in targets
    ]
    for target in targets:
        async with gateway.http.get(gateway.url + target.partition("/prefix")[2]) as response:
            assert response.status == 200


async def test_what_the_documentation_prefills_can_be_sent(gateway: Gateway) -> None:
    _, document, _ = await gateway.get("/openapi.json")
    for path in ("/llm", "/v1/chat/completions"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert (await gateway.post(body["example"], path))[0] == 200
    assert document["servers"][0]["url"] == "."


async def test_the_documentation_says_where_nothing_may_be_found(gateway: Gateway) -> None:
    _, document, _ = await gateway.get("/openapi.json")
    one = ("/v1/models/{name}", "/admin/v1/keys/{id}")
    assert [document["paths"][path]["get"]["responses"]["404"]["description"] for path in one] == [
        "No model has this name",
        "There is no such key",
    ]
    metrics = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert metrics == {"text/plain": {"schema": {"type": "string"}}}


GETS = ("/health", "/healthz", "/readyz", "/version", "/v1/models", "/v1/models/m", "/models")
MORE_GETS = ("/llm/models", "/metrics", "/docs", "/redoc", "/openapi.json", "/hardware/info")


@pytest.mark.parametrize("path", [*GETS, *MORE_GETS])
async def test_head_is_get_without_the_body(gateway: Gateway, path: str) -> None:
    async with gateway.http.get(gateway.url + path) as whole:
        body = await whole.read()
    async with gateway.http.head(gateway.url + path) as head:
        assert (head.status, await head.read()) == (whole.status, b"")
        assert head.headers["Content-Type"] == whole.headers["Content-Type"]
        if path != "/metrics":  # whose figures grow
            assert head.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    "path", ["/v1/models/", "//v1/models", "/v1//models//", "/health/", "//metrics", "/docs/"]
)
async def test_slashes_that_say_nothing_change_nothing(gateway: Gateway, path: str) -> None:
    async with gateway.http.get(URL(gateway.url + path, encoded=True), allow_redirects=False) as it:
        assert it.status == 200


@pytest.mark.parametrize(
    "path",
    ["/llm/", "//llm", "/v1/chat/completions/", "//v1//chat/completions", "/llm//chat/completions"],
)
async def test_slashes_change_nothing_where_text_is_generated(gateway: Gateway, path: str) -> None:
    async with gateway.http.post(URL(gateway.url + path, encoded=True), json=chat()) as it:
        assert it.status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/llm", {"POST"}),
        ("HEAD", "/v1/chat/completions", {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("DELETE", "/health/", {"GET", "HEAD"}),
        ("POST", "/static-offline-docs/swagger-ui.css", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_told_all_that_the_path_answers(
    gateway: Gateway, method: str, path: str, allowed: set[str]
) -> None:
    async with gateway.http.request(method, gateway.url + path) as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(", ")) == allowed


async def test_a_model_whose_backends_are_all_down_is_told_of(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    async with ScriptedEngine() as other:
        models = [
            {"name": "m", "default": True, "backends": [{"url": engine.url}]},
            {"name": "n", "backends": [{"url": other.url}]},
        ]
        gateway = await start_gateway(models=models)
        for dead, status, answer in (
            (engine, 200, {"status": "OK", "down": ["m"]}),
            (other, 503, {"status": "DOWN", "down": ["m", "n"]}),
        ):
            dead.kill()
            for name in ("m", "n"):
                gateway.pool(name).backends[0].probe_soon()
            await gateway.until(lambda: gateway.app.models.find("m").state == "down")
            if dead is other:
                await gateway.until(lambda: gateway.app.models.find("n").state == "down")
            assert (await gateway.get("/readyz"))[:2] == (status, answer)
        health, body, _ = await gateway.get("/health")
        assert (health, body["status"]) == (503, "ERROR")
        assert body["models"] == {"m": "down", "n": "down"}
        _, metrics, _ = await gateway.get("/metrics")
        assert 'reverie_model_backends_up{model="m"} 0.0' in metrics
        await engine.restart()
        gateway.pool("m").backends[0].probe_soon()
        await gateway.until(lambda: gateway.app.models.find("m").state == "ready")
        assert (await gateway.get("/readyz"))[0] == 200
