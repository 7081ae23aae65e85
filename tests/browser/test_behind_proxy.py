"""The page behind nginx, over TLS and HTTP/2, under a path of a host of others."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import expect

from reverie.testing import ScriptedEngine
from tests.browser.conftest import OpenPage, ask
from tests.deploy.proxies import running
from tests.harness import StartGateway


async def test_the_page_works_under_a_path(
    open_page: OpenPage, engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, server={"no_auth": True})
    async with running("nginx", tmp_path, gateway.url.removeprefix("http://")) as proxy:
        page = await open_page(f"{proxy.prefixed}/", ignore_https_errors=True)
        await ask(page, "Hi")
        await expect(page.get_by_text("Hello world")).to_be_visible()
