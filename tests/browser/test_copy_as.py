"""The request on screen, as a command or a program: each is run, and sends what the page sends."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from typing import Any

import pytest
from playwright.async_api import Page, expect

from reverie.testing import ScriptedEngine
from tests.browser.conftest import OpenPage, ask
from tests.harness import StartGateway

QUESTION = """It's "quoted" \\ $HOME `x` ${y} 'z' – ünï €
and a second line"""
COMMANDS = {
    "curl": ["sh", "-c"],
    "Python": [sys.executable, "-c"],
    "JavaScript": ["node", "--input-type=module", "-e"],
    "Livepeer SDK": [sys.executable, "-c"],
}


async def copied(page: Page, form: str) -> str:
    await page.get_by_label("This conversation's request as").select_option(form)
    return await page.locator("#copy-text").inner_text()


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "REVERIE_API_KEY": "secret-key"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    written, complaints = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0, complaints.decode()
    return written.decode()


@pytest.mark.parametrize("form", COMMANDS)
@pytest.mark.parametrize("streamed", [True, False])
async def test_what_is_copied_sends_what_is_on_screen(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    open_page: OpenPage,
    form: str,
    streamed: bool,
) -> None:
    if shutil.which(COMMANDS[form][0]) is None:
        pytest.skip(f"{COMMANDS[form][0]} isn't here")
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "secret-key"})
    page = await open_page(gateway.url, viewport={"width": 1400, "height": 1000})
    asked = page.get_by_role("form", name="This server asks")
    await asked.get_by_label("API key").fill("secret-key")
    await page.keyboard.press("Enter")
    await expect(asked).to_have_count(0)
    await page.get_by_label("temperature").fill("0.25")
    await page.get_by_label("top_k").fill("12")
    await page.get_by_label("System prompt").fill("Be 'kind'.")
    if not streamed:
        await page.get_by_label("stream").uncheck()
    await ask(page, QUESTION)
    await expect(page.locator(".figures")).to_be_visible()
    sent = what_matters(engine.requests[-1].body)
    await page.get_by_text("Copy as…").click()
    text = await copied(page, form)
    assert "secret-key" not in text
    output = await run(*COMMANDS[form], text)
    assert "Hello" in output
    assert what_matters(engine.requests[-1].body) == sent
    assert len(engine.requests) >= 2


def what_matters(body: dict[str, Any]) -> dict[str, Any]:
    """What an engine is told of the request; it is always asked for a stream."""
    return {
        k: v for k, v in body.items() if k in ("messages", "temperature", "top_k", "max_tokens")
    }


async def test_what_is_written_but_not_sent_is_on_screen_too(
    gateway: Any, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url, viewport={"width": 1400, "height": 1000})
    await page.get_by_text("Copy as…").click()
    await page.get_by_label("Your message").fill("Not sent yet")
    text = await copied(page, "curl")
    assert "Not sent yet" in text
    assert "Authorization" not in text
