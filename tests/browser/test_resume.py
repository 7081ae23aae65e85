"""Connections drop and servers die: the answer goes on by itself, and the page says so."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import expect

from reverie.testing import Script, ScriptedEngine
from tests.breaking import Link, ServerPlace
from tests.browser.conftest import OpenPage, ask
from tests.harness import Gateway

WORDS = tuple(f"word{number} " for number in range(40))
WHOLE = "".join(WORDS).strip()


async def test_a_dropped_connection_is_gone_on_with_and_nothing_is_generated_twice(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    async with Link(gateway.url) as link:
        page = await open_page(link.url)
        await ask(page, "Hi")
        text = page.locator(".assistant .text")
        await expect(text).to_contain_text("word9")
        link.cut()
        await expect(page.get_by_role("status")).to_have_text("The answer goes on.")
        engine.resume()
        await expect(text).to_have_text(WHOLE)
        await expect(page.locator(".figures")).to_contain_text("gone on with after a lost")
        await expect(page.locator(".figures")).to_contain_text("40 tokens")
    assert engine.generations == 1


async def test_an_answer_goes_on_after_its_server_was_killed(
    engine: ScriptedEngine, open_page: OpenPage, tmp_path: Path
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    place = ServerPlace(tmp_path, engine, more="[models.defaults]\nmax_tokens = 99\n")
    async with place.server() as first:
        page = await open_page(place.url)
        await ask(page, "Hi")
        text = page.locator(".assistant .text")
        await expect(text).to_contain_text("word9")
        first.kill()
        await expect(page.locator(".notice")).to_contain_text("connection to the server was lost")
    engine.script = Script(tokens=WORDS)
    async with place.server():
        await expect(page.locator(".figures")).to_contain_text("gone on with after a lost")
        await expect(text).to_have_text(WHOLE)
    await expect(page.locator(".assistant .error")).to_have_count(0)
    last = engine.requests[-1].body
    assert last["messages"][-1]["role"] == "assistant"
    assert last["messages"][-1]["content"].startswith("word0 word1 ")
    assert last["max_tokens"] == 99 - 10  # what is left of the model's own


async def test_a_server_that_stays_away_is_no_reason_not_to_stop(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=10)
    async with Link(gateway.url) as link:
        page = await open_page(link.url)
        await ask(page, "Hi")
        await expect(page.locator(".assistant .text")).to_contain_text("word9")
    await expect(page.locator(".notice")).to_contain_text("Trying to go on")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".figures")).to_contain_text("stopped")
    await expect(page.locator(".assistant .text")).to_contain_text("word9")


async def test_events_are_read_wherever_the_stream_is_cut(
    gateway: Gateway, open_page: OpenPage
) -> None:
    """Every split of every character, with each kind of line's end."""
    page = await open_page(gateway.url)
    wrong = await page.evaluate(
        """async () => {
            const source = document.querySelector("script[src]").src.replace("app.js", "sse.js");
            const { SseParser } = await import(source);
            const wrong = [];
            for (const end of ["\\n", "\\r\\n", "\\r"]) {
                const text = [": ping", "", "id: 1", "data: a", "", "data:b", "data: c", "",
                    "event: x", "id", "data", "", "data: cut"].join(end) + end;
                const whole = [
                    { id: "1", data: "a" }, { id: null, data: "b\\nc" }, { id: "", data: "" }];
                for (let one = 0; one <= text.length; one++)
                    for (let two = one; two <= text.length; two++) {
                        const parser = new SseParser();
                        const parts = [text.slice(0, one), text.slice(one, two), text.slice(two)];
                        const found = parts.flatMap((part) => parser.feed(part));
                        if (JSON.stringify(found) !== JSON.stringify(whole))
                            wrong.push([end, one, two, found]);
                    }
            }
            return wrong.slice(0, 3);
        }"""
    )
    assert wrong == []
