"""The page in Chromium: whatever a test does, nothing leaves the origin and no script fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.contract.conftest import served as served

FOLDER = Path(__file__).parent
OpenPage: TypeAlias = Callable[..., Awaitable[Page]]

# Machines that test are busy: what is waited for comes, or the test fails after this long.
expect.set_options(timeout=30_000)


def _chromium() -> str:
    named = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if named is None:
        pytest.skip("Chromium isn't here: tests/install-chromium.sh installs it")
    return named


@pytest.fixture(scope="session")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where Chromium can be driven. All tests share it, and each page has a profile of its own."""
    options = {"executablePath": _chromium(), "args": ["--no-sandbox", "--disable-dev-shm-usage"]}
    file = tmp_path_factory.mktemp("browser") / "options.json"
    file.write_text(json.dumps(options))
    command = ["playwright", "launch-server", "--browser", "chromium", "--config", str(file)]
    with subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # Playwright's program and Chromium are its own


@pytest.fixture
async def browser(shared_browser: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect(shared_browser)
        yield browser
        await browser.close()


@pytest.fixture
async def open_page(browser: Browser) -> AsyncIterator[OpenPage]:
    """``await open_page(url, **options of a context)``: the page, ready to be used."""
    foreign: list[str] = []
    failures: list[str] = []

    async def open_page(url: str, *, breaks_policy: bool = False, **options: Any) -> Page:
        context = await browser.new_context(**options)
        context.set_default_timeout(30_000)
        page = await context.new_page()
        origin = urlsplit(url)[:2]

        def on_request(request: Any) -> None:
            if request.url.startswith("http") and urlsplit(request.url)[:2] != origin:
                foreign.append(request.url)

        page.on("request", on_request)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("dialog", lambda dialog: failures.append(f"dialog: {dialog.message}"))
        if not breaks_policy:  # what the policy forbids is told there
            page.on("console", lambda message: _note(message, failures))
        await page.goto(url)
        await expect(page.get_by_label("Your message")).to_be_visible()
        return page

    yield open_page
    assert foreign == []
    assert failures == []


def _note(message: Any, failures: list[str]) -> None:
    """Errors on the console are failures, save that a request was answered with an error."""
    if message.type == "error" and "Failed to load resource" not in message.text:
        failures.append(message.text)


async def ask(page: Page, text: str) -> None:
    await page.get_by_label("Your message").fill(text)
    await page.get_by_role("button", name="Send").click()


ADMIN_KEY = "an-admin-key-of-good-length"


async def open_view(open_page: OpenPage, url: str, name: str, **options: Any) -> Page:
    """One of the operator's views, with the admin key given."""
    page = await open_page(url, **options)
    await page.get_by_role("navigation", name="Views").get_by_role("link", name=name).click()
    await page.get_by_label("Admin key").fill(ADMIN_KEY)
    await page.get_by_role("button", name="Use this key").click()
    await expect(page.get_by_role("button", name="Forget the admin key")).to_be_visible()
    return page


WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""Pixels that the page is wider than its window."""


async def serious(page: Page, axe: str) -> list[str]:
    """What axe-core finds that is serious or worse."""
    await page.evaluate(axe)
    found = await page.evaluate("axe.run().then((r) => JSON.stringify(r.violations))")
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']]}"
        for one in json.loads(found)
        if one["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, fetched once; the test is skipped only where it can't be had."""
    source = FOLDER / "node_modules" / "axe-core" / "axe.min.js"
    if not source.exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
        try:
            subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, timeout=100)
        except (OSError, subprocess.SubprocessError) as failure:
            pytest.skip(f"axe-core can't be had: {failure}")
    return source.read_text()
