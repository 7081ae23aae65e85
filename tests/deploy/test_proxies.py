"""deploy/nginx and deploy/caddy, run in front of a gateway: nothing is lost or seen on the way."""

from __future__ import annotations

import asyncio
import io
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import openai
import pytest

from reverie.testing import Script, ScriptedEngine
from tests.deploy.proxies import PATIENCE, Proxy, running
from tests.harness import Gateway, StartGateway, chat
from tests.ports import free_port

pytestmark = pytest.mark.integration

KEY = {"Authorization": "Bearer k"}
ADMIN_KEY = "an-admin-key-of-good-length"
Behind = Callable[..., Awaitable[Proxy]]


@pytest.fixture(params=["nginx", "caddy"])
async def behind(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Behind]:
    """``await behind(gateway, …)``: a proxy in front of it."""
    async with AsyncExitStack() as stack:

        async def behind(*urls: str) -> Proxy:
            addresses = [url.removeprefix("http://") for url in urls]
            return await stack.enter_async_context(running(request.param, tmp_path, *addresses))

        yield behind


@pytest.fixture
async def keyed(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    """A gateway that trusts the proxy."""
    return await start_gateway(
        engine,
        server={"trusted_proxies": ["127.0.0.1"], "ping_interval": 0.1, "commit_delay": 0.1},
        environ={"REVERIE_API_KEYS": "k", "REVERIE_ADMIN_KEY": ADMIN_KEY},
        model={"aliases": ["org/name"]},
    )


async def test_a_stream_arrives_piece_by_piece_and_so_do_pings(
    keyed: Gateway, behind: Behind, engine: ScriptedEngine
) -> None:
    proxy = await behind(keyed.url)
    engine.script = Script(tokens=("one", " two"), stall_after=1)
    for url in (proxy.url, proxy.prefixed):
        body = chat(stream=True)
        async with proxy.http.post(f"{url}/llm", json=body, headers=KEY) as response:
            lines = [line async for line in _until(response, b"one")]
            lines += [line async for line in _until(response, b": ping")]
            assert engine.stalled == 1
            engine.resume()
            rest = await response.text()
        assert " two" in rest
        assert rest.endswith("data: [DONE]\n\n")


async def _until(response: Any, part: bytes) -> AsyncIterator[bytes]:
    """The lines up to the first that has this part."""
    async with asyncio.timeout(PATIENCE):
        async for line in response.content:
            yield line
            if part in line:
                return
    pytest.fail(f"no line has {part!r}")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(
    keyed: Gateway, behind: Behind, engine: ScriptedEngine, stream: bool
) -> None:
    proxy = await behind(keyed.url)
    engine.script = Script(tokens=("one", " two"), stall_after=1)
    body = json.dumps(chat(stream=stream)).encode()
    head = "POST /llm HTTP/1.1\nAuthorization: Bearer k\n"
    _, writer = await proxy.send(proxy.url, head, body)
    await engine.wait_for(lambda e: e.stalled == 1, PATIENCE)
    writer.transport.abort()
    await engine.wait_for(lambda e: e.cancelled == 1, PATIENCE)


async def _ask(proxy: Proxy, **more: Any) -> Any:
    body = io.BytesIO(json.dumps(chat(**more)).encode())
    async with proxy.http.post(f"{proxy.url}/llm", data=body, headers=KEY) as response:
        return response.status, await response.read()


async def test_large_bodies_pass_up_to_the_gateways_bound(
    start_gateway: StartGateway, behind: Behind, engine: ScriptedEngine
) -> None:
    keyed = await start_gateway(engine, environ={"REVERIE_API_KEYS": "k"})
    proxy = await behind(keyed.url)
    image = "x" * 9_000_000
    status, answer = await _ask(proxy, metadata={"k": image})
    assert (status, json.loads(answer)["choices"][0]["finish_reason"]) == (200, "stop"), answer
    status, answer = await _ask(proxy, metadata={"k": image + "x" * 2_000_000})
    assert (status, json.loads(answer)["error"]["code"]) == (413, "request_too_large")


async def test_what_is_the_operators_is_not_seen_from_outside(
    keyed: Gateway, behind: Behind
) -> None:
    proxy = await behind(keyed.url)
    for base in (proxy.url, proxy.prefixed):
        prefix = urlsplit(base).path
        for path in (
            *("/metrics", "/metrics/", "//metrics", "/%6Detrics", "/x/../metrics"),
            *("/admin/v1/models", "//admin/v1/models", "/admin//v1/models", "/./admin/v1/models"),
            *("/%61dmin/v1/models", "/admin%2Fv1%2Fmodels", "/%2Fadmin/v1/models"),
            *("/x%2F..%2Fadmin/v1/models", "/admin/v1/models/", "/admin/v1/models?/x"),
            *("/ADMIN/v1/models", "/%2561dmin/v1/models", "/admin;x/v1/models", "/v1/..;/metrics"),
            *("/%2E/admin/v1/models", "/v1/%2e%2e/admin/v1/models", "/metrics%3F", "/metrics%0A"),
        ):
            reader, writer = await proxy.send(
                base,
                f"GET {prefix}{path} HTTP/1.1\nConnection: close\n"
                f"Authorization: Bearer {ADMIN_KEY}\n",
            )
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 404 "), (base, path, answer)
    async with proxy.http.get(f"{proxy.url}/v1/models", headers=KEY) as response:
        assert response.status == 200


_INNER = (
    f"GET /admin/v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n"
)
_CHUNKED = f"0\r\n\r\n{_INNER}"


_SMUGGLING = [
    (f"Content-Length: {len(_CHUNKED)}\r\nTransfer-Encoding: chunked\r\n", _CHUNKED),
    (f"Transfer-Encoding: chunked\r\nContent-Length: {len(_CHUNKED)}\r\n", _CHUNKED),
    (f"Content-Length: {len(_CHUNKED)}\r\nTransfer-Encoding : chunked\r\n", _CHUNKED),
    (f"Content-Length: {len(_CHUNKED)}\r\nTransfer-Encoding:\x0bchunked\r\n", _CHUNKED),
    (f"Content-Length: {len(_CHUNKED)}\r\nTransfer-Encoding: xchunked\r\n", _CHUNKED),
    (f"Content-Length: {len(_CHUNKED)}\r\nTransfer_Encoding: chunked\r\n", _CHUNKED),
    (f"Content-Length: {len(_CHUNKED)}\r\nX: a\nTransfer-Encoding: chunked\r\n", _CHUNKED),
    (f"Content-Length: 0\r\nContent-Length: {len(_INNER)}\r\n", _INNER),
    (f"Content-Length: +{len(_INNER)}\r\n", _INNER),
    (f"Content-Length: {len(_INNER)}\r\nExpect: 100-continue\r\n", _INNER),
    ("Transfer-Encoding: chunked\r\n", f"0;a=\n\r\n\r\n{_INNER}"),
    ("Transfer-Encoding: chunked\r\n", f"5\nhello\n0\n\n{_INNER}"),
    ("Transfer-Encoding: chunked\r\n", f"10000000000000000\r\n{_INNER}"),
    ("Connection: upgrade, content-length\r\nUpgrade: h2c\r\nContent-Length: 5\r\n", _INNER),
    ("Connection: close, X-Forwarded-For\r\nContent-Length: 0\r\n", _INNER),
]
"""Headers that say in two ways where a body ends, and bodies with a request inside."""


async def test_no_request_is_smuggled_past_the_proxy_in_the_body_of_another(
    keyed: Gateway, behind: Behind
) -> None:
    """What follows a request on its connection is the proxy's to look at, and it lets none by."""
    proxy = await behind(keyed.url)
    answers = await asyncio.gather(*(_smuggled(proxy, *one) for one in _SMUGGLING))
    assert [one for one in answers if b"HTTP/1.1 200 " in one] == []
    for _ in range(2 * len(_SMUGGLING)):  # on the connections that it keeps to the gateway
        async with proxy.http.get(f"{proxy.url}/v1/models", headers=KEY) as response:
            assert response.status == 200
            assert "org/name" in await response.text()


async def _smuggled(proxy: Proxy, head: str, body: str) -> bytes:
    """All that is answered to a request without a use, and to what is in its body."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", urlsplit(proxy.url).port, ssl=proxy.tls, server_hostname="localhost"
    )
    start = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
    writer.write(f"{start}{head}\r\n{body}".encode())
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = b""
    try:
        async with asyncio.timeout(3):
            while piece := await reader.read(65536):
                answer += piece
    except (TimeoutError, ConnectionError):  # it waits for the rest of a body, or refused it
        pass
    writer.close()
    return answer


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_log_has_the_clients_address_if_the_proxy_is_trusted(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    behind: Behind,
    caplog: pytest.LogCaptureFixture,
    trusted: bool,
) -> None:
    caplog.set_level("INFO", "reverie.request")
    gateway = await start_gateway(
        engine,
        server={"trusted_proxies": ["127.0.0.1"] if trusted else []},
        environ={"REVERIE_API_KEYS": "k"},
    )
    proxy = await behind(gateway.url)
    headers = {**KEY, "X-Forwarded-For": "8.8.8.8", "Forwarded": "for=8.8.8.8"}
    async with proxy.http.post(f"{proxy.url}/llm", json=chat(), headers=headers) as response:
        assert response.status == 200
    [line] = [one for one in caplog.records if one.getMessage() == "request"]
    assert line.fields["client"] == ("127.0.0.2" if trusted else "127.0.0.1")  # type: ignore[attr-defined]


async def test_a_proxied_caller_is_not_local_by_the_proxys_address(
    engine: ScriptedEngine, start_gateway: StartGateway, behind: Behind
) -> None:
    gateway = await start_gateway(engine)
    proxy = await behind(gateway.url)
    status, answer = await _ask(proxy)
    assert (status, json.loads(answer)["error"]["code"]) == (403, "forbidden")


async def test_the_page_and_all_that_it_loads_is_there_under_a_path(
    keyed: Gateway, behind: Behind
) -> None:
    proxy = await behind(keyed.url)
    loaded: set[str] = set()
    waiting = [f"{proxy.prefixed}/", f"{proxy.prefixed}/docs", f"{proxy.prefixed}/redoc"]
    while waiting:
        url = waiting.pop()
        loaded.add(url)
        async with proxy.http.get(url) as response:
            assert response.status == 200, url
            text = await response.text(errors="replace")
        kind = response.content_type
        found: list[str] = []
        if kind == "text/html":
            found = re.findall(r'(?:href|src)="([^"#]+)"', text)
            found += re.findall(r"url: '([^']+)'", text)
            assert not [one for one in found if one.startswith("/")]
        elif kind == "text/javascript" and "swagger" not in url and "redoc" not in url:
            found = re.findall(r'(?:from|import)\s*\(?"(\.[^"]+)"', text)
        waiting += {urljoin(url, one) for one in found} - loaded - set(waiting)
    assert len([one for one in loaded if one.endswith(".js")]) > 30
    assert all(one.startswith(proxy.prefixed) for one in loaded)
    async with proxy.http.get(f"{proxy.prefixed}/openapi.json") as response:
        assert (await response.json())["servers"][0]["url"] == "."
    async with proxy.http.get(proxy.prefixed, allow_redirects=False) as response:
        assert response.status == 308
        assert urljoin(proxy.prefixed, response.headers["Location"]) == f"{proxy.prefixed}/"


async def test_openais_sdk_works_through_tls_and_a_path(keyed: Gateway, behind: Behind) -> None:
    proxy = await behind(keyed.url)
    tls = ssl.create_default_context(cafile=proxy.authority)
    async with (
        httpx.AsyncClient(verify=tls) as http,
        openai.AsyncOpenAI(
            base_url=f"{proxy.prefixed}/v1", api_key="k", http_client=http, max_retries=0
        ) as client,
    ):
        assert [model.id async for model in await client.models.list()] == ["m", "org/name"]
        assert (await client.models.retrieve("org/name")).id == "org/name"
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "Hello world"


async def test_clients_speak_http_2(keyed: Gateway, behind: Behind) -> None:
    proxy = await behind(keyed.url)
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--no-buffer", "--http2", "--cacert", str(proxy.authority)),
        *("-H", "Authorization: Bearer k", "--data", json.dumps(chat(stream=True))),
        *("--write-out", "%{http_version} %{http_code}", f"{proxy.url}/llm"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert b"Hello" in output
    assert output.endswith(b"data: [DONE]\n\n2 200")


async def test_a_gateway_that_is_gone_is_told_in_a_body_that_clients_read(
    behind: Behind, engine: ScriptedEngine
) -> None:
    url = engine.url.removesuffix("/v1")
    engine.kill()
    proxy = await behind(url)
    for base in (proxy.url, proxy.prefixed):
        async with proxy.http.get(f"{base}/v1/models") as response:
            assert response.status == 502
            answer = await response.json()
        assert answer["error"]["message"] == answer["detail"]["msg"]
        assert answer["error"]["code"] == "backend_error"


@pytest.fixture
async def flaky() -> AsyncIterator[tuple[str, list[bytes]]]:
    """The address of a gateway that dies on each POST, and those that it got."""
    got: list[bytes] = []

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST "):
            got.append(head)
            writer.transport.abort()
        else:  # whether it is well
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(die, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    yield f"http://{host}:{port}", got
    server.close()


async def test_nothing_is_sent_to_a_second_gateway_that_a_first_one_got(
    keyed: Gateway, behind: Behind, engine: ScriptedEngine, flaky: tuple[str, list[bytes]]
) -> None:
    url, got = flaky
    proxy = await behind(url, keyed.url)
    answers = [(await _ask(proxy))[0] for _ in range(4)]
    assert answers.count(502) == len(got) > 0
    assert len(engine.requests) == answers.count(200) == 4 - len(got)


async def test_requests_go_to_the_gateway_that_can_be_connected_to(
    keyed: Gateway, behind: Behind
) -> None:
    proxy = await behind(f"http://127.0.0.1:{free_port()}", keyed.url)
    statuses: list[int] = []
    async with asyncio.timeout(PATIENCE):
        while statuses[-6:] != [200] * 6:
            statuses.append((await _ask(proxy))[0])
    if proxy.name == "nginx":
        assert len(statuses) == 6  # it asks the other one at once


@pytest.mark.parametrize("behind", ["nginx"], indirect=True)
async def test_a_request_with_an_idempotency_key_goes_to_the_next_gateway(
    keyed: Gateway, behind: Behind, flaky: tuple[str, list[bytes]]
) -> None:
    url, got = flaky
    proxy = await behind(url, keyed.url)
    for number in range(4):
        headers = {**KEY, "Idempotency-Key": f"a-key-{number}"}
        async with proxy.http.post(f"{proxy.url}/llm", json=chat(), headers=headers) as response:
            assert response.status == 200
    assert got
