"""How the page and its files are served."""

from __future__ import annotations

import gzip
import re
from urllib.parse import urljoin

import pytest

from reverie.http.page.assets import load
from reverie.http.page.route import takes_gzip
from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PLAIN = {"Accept-Encoding": "identity"}


async def test_the_page_is_at_the_root_and_forbids_scripts_and_hosts_of_others(
    gateway: Gateway,
) -> None:
    status, page, headers = await gateway.get("/", BROWSER)
    assert status == 200
    assert "<title>Reverie</title>" in page
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Request-Id"]


async def test_its_files_are_found_under_any_prefix_and_may_be_kept_for_ever(
    gateway: Gateway,
) -> None:
    _, page, _ = await gateway.get("/")
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 4
    for link in links:
        target = urljoin("https://proxy.example/prefix/", link)
        assert target.startswith("https://proxy.example/prefix/")
        status, _, headers = await gateway.get(target.partition("/prefix")[2])
        assert status == 200
        if "page/" in link:
            assert "immutable" in headers["Cache-Control"]
            assert headers["X-Content-Type-Options"] == "nosniff"


async def test_files_are_compressed_for_those_who_take_it(gateway: Gateway) -> None:
    name = f"/page/{load().build}/chat.js"
    async with gateway.http.get(gateway.url + name, headers=PLAIN) as plain:
        assert "Content-Encoding" not in plain.headers
        body = await plain.read()
    async with gateway.http.get(
        gateway.url + name, headers={"Accept-Encoding": "gzip"}, auto_decompress=False
    ) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == "Accept-Encoding"
        assert gzip.decompress(await packed.read()) == body


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        (b"gzip, deflate, br", True),
        (b"br, GZIP;q=0.5", True),
        (b"*", True),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000, br", False),
        (b"br", False),
        (b"", False),
    ],
)
def test_what_a_client_takes_is_read_from_its_header(accepted: bytes, takes: bool) -> None:
    assert takes_gzip(accepted) is takes


async def test_a_client_that_has_the_page_is_not_sent_it_again(gateway: Gateway) -> None:
    _, _, headers = await gateway.get("/")
    for known in (headers["ETag"], f'"other", {headers["ETag"]}'):
        async with gateway.http.get(gateway.url, headers={"If-None-Match": known}) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers["ETag"] == headers["ETag"]
    assert (await gateway.get("/", {"If-None-Match": '"other"'}))[0] == 200


@pytest.mark.parametrize("path", ["/", f"/page/{load().build}/app.js"])
async def test_head_is_get_without_the_body_and_other_methods_are_refused(
    gateway: Gateway, path: str
) -> None:
    async with gateway.http.get(gateway.url + path, headers=PLAIN) as whole:
        length = len(await whole.read())
    async with gateway.http.head(gateway.url + path, headers=PLAIN) as head:
        assert (head.status, head.headers["Content-Length"]) == (200, str(length))
    async with gateway.http.post(gateway.url + path) as posted:
        assert (posted.status, posted.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/app.js",
        "/page/0123456789abcdef/app.js",
        f"/page/{load().build}/nothing.js",
        f"/page/{load().build}/index.html",
        f"/page/{load().build}/../assets.py",
        f"/page/{load().build}/vendor/vendor.lock.json",
    ],
)
async def test_there_is_nothing_else(gateway: Gateway, path: str) -> None:
    status, answer, _ = await gateway.get(path)
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_nobody_needs_a_key_for_the_page(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "k"})
    assert (await gateway.get("/"))[0] == 200
    assert (await gateway.get(f"/page/{load().build}/app.js"))[0] == 200


async def test_beside_ollamas_api_browsers_get_the_page_and_clients_the_words(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server={"ollama": True})
    status, page, headers = await gateway.get("/", BROWSER)
    assert (status, "<title>Reverie</title>" in page) == (200, True)
    assert "Accept" in headers["Vary"].replace("Accept-Encoding", "")
    assert (await gateway.get("/"))[1] == "Ollama is running"
    async with gateway.http.head(gateway.url, headers=BROWSER) as head:
        assert head.headers["Content-Type"].startswith("text/plain")
    assert (await gateway.get(f"/page/{load().build}/app.js"))[0] == 200
