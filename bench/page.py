"""Measures the page, and prints a table. Run it with ``make bench-page``; it needs Chromium.

What it weighs, compressed: what a first visit fetches, and all of it. How long a user of it waits
for the first token: from the click to the text on screen in Chromium, and from curl's start to the
first text that it prints, in turn, on the real default model. And what those who
watch the server cost it: CPU time of the gateway with and without 20 of them, in turn, while
requests run and the list of errors is full.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import uvloop
from cpus import cpu_seconds
from playwright.async_api import Browser, Page, async_playwright
from rich.console import Console
from rich.table import Table
from servers import config, default_reverie, reverie

from reverie.http.page.assets import load
from reverie.testing import Script, ScriptedEngine

WATCHERS = 20
RUNNING = 8
ERRORS = 50
ADMIN_KEY = "an-admin-key-of-good-length"
TOKENS = 8

_FIRST_TEXT = """async (text) => {
  const field = document.getElementById("message");
  const write = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set;
  write.call(field, text);
  field.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise(requestAnimationFrame);
  const before = document.querySelectorAll(".assistant .text").length;
  const began = performance.now();
  document.querySelector(".composer [type=submit]").click();
  return await new Promise((seen) => {
    const look = () => {
      const answers = document.querySelectorAll(".assistant .text");
      const last = answers[answers.length - 1];
      if (answers.length <= before || !last.textContent.trim()) return;
      watching.disconnect();
      seen((performance.now() - began) / 1000);
    };
    const watching = new MutationObserver(look);
    watching.observe(document.body, { childList: true, subtree: true, characterData: true });
  });
}"""
"""Asks, and gives the seconds until the first text of the answer is in the page."""


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    turns: int


QUICK = Size(rounds=3, seconds=3.0, turns=2)
FULL = Size(rounds=21, seconds=15.0, turns=3)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


async def first_visit(browser: Browser, url: str) -> int:
    """Bytes of the page's files that a first visit fetches, as they are sent."""
    page = await browser.new_page()
    await page.goto(url)
    await page.get_by_label("Your message").wait_for()
    await page.wait_for_load_state("networkidle")
    sizes: list[int] = await page.evaluate(
        """[...performance.getEntriesByType("navigation"),
        ...performance.getEntriesByType("resource").filter(({name}) => name.includes("/page/"))]
        .map(({encodedBodySize}) => encodedBodySize)"""
    )
    await page.close()
    return sum(sizes)


def question() -> str:
    """One that no cache has seen, as long as every other."""
    return f"Tell me a story of number {random.randrange(10**9, 10**10)}."


async def by_page(page: Page) -> float:
    """Seconds from the click to the first text."""
    await page.get_by_role("button", name="New").first.click()
    seconds: float = await page.evaluate(_FIRST_TEXT, question())
    await page.locator(".figures").last.wait_for()
    return seconds


async def by_curl(url: str) -> float:
    """Seconds from its start to the first text that it prints."""
    body = {"messages": [{"role": "user", "content": question()}], "stream": True}
    body |= {"max_tokens": TOKENS, "temperature": 0.7, "top_p": 1, "top_k": -1}
    began = time.perf_counter()
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sN", "-H", "Content-Type: application/json", "-d", json.dumps(body),
        f"{url}/v1/chat/completions", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert curl.stdout is not None
    seconds = 0.0
    async for line in curl.stdout:
        if line.startswith(b"data: {") and not seconds:
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["delta"].get("content", "").strip():
                seconds = time.perf_counter() - began
    await curl.wait()
    return seconds


async def first_token(browser: Browser, url: str, rounds: int) -> tuple[float, float]:
    """The medians of the page's and of curl's, asked in turn."""
    page = await browser.new_page()
    await page.goto(url)
    await page.get_by_role("button", name="Settings").wait_for()
    await page.get_by_label("max_tokens").fill(str(TOKENS))
    waits: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        seen, told = await by_page(page), await by_curl(url)
        if number:  # the first warms both
            waits[0].append(seen)
            waits[1].append(told)
    await page.close()
    return statistics.median(waits[0]), statistics.median(waits[1])


async def _watch(session: aiohttp.ClientSession, url: str) -> int:
    """Watch until it is cancelled; give the bytes that came."""
    count = 0
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    try:
        async with session.get(f"{url}/admin/v1/live?stream=true", headers=headers) as response:
            async for chunk in response.content.iter_any():
                count += len(chunk)
    except asyncio.CancelledError:
        pass
    return count


async def watching(size: Size) -> tuple[float, float, float]:
    """Shares of a core without and with the watchers, and bytes a second that one is sent."""
    shares: dict[bool, list[float]] = {False: [], True: []}
    rates: list[float] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = await stack.enter_async_context(ScriptedEngine(Script(status=500)))
        text = config(engine.url.removesuffix("/v1"), f"sqlite:///{folder}/reverie.db")
        gateway = await stack.enter_async_context(
            reverie(text, folder, REVERIE_ADMIN_KEY=ADMIN_KEY)
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        for _ in range(ERRORS):
            await _ask(session, gateway.url)
        engine.script = Script(tokens=["word "] * 100_000, delay=0.1)
        asking = [asyncio.create_task(_ask(session, gateway.url)) for _ in range(RUNNING)]
        await engine.wait_for(lambda engine: engine.in_flight == RUNNING, 30)
        for _ in range(size.turns):
            for are_there in (False, True):
                count = WATCHERS if are_there else 0
                watchers = [asyncio.create_task(_watch(session, gateway.url)) for _ in range(count)]
                await asyncio.sleep(1)
                before = cpu_seconds(gateway.pid)
                await asyncio.sleep(size.seconds)
                shares[are_there].append((cpu_seconds(gateway.pid) - before) / size.seconds)
                for watcher in watchers:
                    watcher.cancel()
                rates += [sent / (size.seconds + 1) for sent in await asyncio.gather(*watchers)]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    without, with_them = (statistics.median(shares[there]) for there in (False, True))
    return without, with_them, statistics.mean(rates)


async def _ask(session: aiohttp.ClientSession, url: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 100_000}
    async with session.post(f"{url}/llm", json=body) as response:
        await response.read()


async def main(size: Size) -> None:
    loaded = load()
    whole = sum(len(file.compressed) for file in (loaded.page, *loaded.files.values()))
    async with chromium() as browser, default_reverie() as target:
        visit = await first_visit(browser, target.url)
        seen, told = await first_token(browser, target.url, size.rounds)
    without, with_them, rate = await watching(size)
    table = Table("", "measured", "aim", title="The page")
    table.add_row("first visit, compressed", f"{visit / 1e3:.0f} kB", "")
    table.add_row("all of it, compressed", f"{whole / 1e3:.0f} kB", "< 350 kB")
    table.add_row("first token in Chromium", f"{seen * 1e3:.0f} ms", "")
    table.add_row("the same by curl", f"{told * 1e3:.0f} ms", "")
    table.add_row("ratio", f"{seen / told:.2f}", "≤ 1.2")
    table.add_row(f"gateway, {RUNNING} requests", f"{without:.1%} of a core", "")
    table.add_row(f"and {WATCHERS} watchers", f"{with_them:.1%} of a core", "")
    table.add_row("what they cost", f"{with_them - without:.1%} of a core", "< 2 %")
    table.add_row("sent to each", f"{rate / 1e3:.1f} kB/s", "")
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    uvloop.run(main(QUICK if parser.parse_args().quick else FULL))
