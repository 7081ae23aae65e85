"""The page in Chromium: whatever a test does, nothing leaves the origin and no script fails."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
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


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    program = _chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
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


class Link:
    """A proxy that passes bytes on to a server, and whose connections can be cut."""

    def __init__(self, server: str) -> None:
        self.server = server
        """Where new connections lead."""
        self.streams = 0
        """Connections on which the server's live feed comes now."""
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Link:
        self._listening = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = urlsplit(self.server)
        host, port = server.hostname, server.port
        try:
            upstream, sink = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, sink}
        self._open |= ends
        try:
            await asyncio.gather(self._watch(reader, sink), _copy(upstream, writer))
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy what a browser asks. A stream that it leaves takes its connection with it."""
        is_stream = False
        try:
            async for data in _parts(reader):
                if not is_stream and b" /admin/v1/live" in data:
                    is_stream = True
                    self.streams += 1
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # cut
        finally:
            self.streams -= is_stream
            writer.transport.abort()


async def _parts(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(65536):
        yield data


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async for data in _parts(reader):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # cut
    writer.transport.abort()
