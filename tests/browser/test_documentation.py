"""The documentation's site in Chromium: it asks no other server, and what is on it works."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Error, Request, expect

from tests.docs.site import build_site


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what is asked is what the test looks at."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the site is served."""
    handler = functools.partial(Quiet, directory=str(build_site(tmp_path)))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_search_colours_and_links_work_with_nothing_from_elsewhere(
    browser: Browser, address: str
) -> None:
    context = await browser.new_context(color_scheme="dark")
    context.set_default_timeout(30_000)
    page = await context.new_page()
    asked: list[Request] = []
    failures: list[Error] = []
    page.on("request", lambda request: asked.append(request))
    page.on("pageerror", lambda error: failures.append(error))

    await page.goto(f"{address}/index.html")
    body = page.locator("body")
    await expect(body).to_have_attribute("data-md-color-scheme", "slate")
    await page.locator("label[title=Light]").click()
    await expect(body).to_have_attribute("data-md-color-scheme", "default")

    search = page.get_by_role("textbox", name="Search")
    await search.click()
    await expect(page.locator(".md-search-result__meta")).to_have_text("Type to start searching")
    await search.press_sequentially("drain_timeout")
    await page.locator(".md-search-result__link[href*='#stopping']").click()
    await expect(page).to_have_url(f"{address}/operations.html?h=drain+timeout#stopping")
    await expect(page.get_by_role("heading", name="Stopping")).to_be_in_viewport()

    assert [request.url for request in asked if not request.url.startswith(address)] == []
    assert failures == []
