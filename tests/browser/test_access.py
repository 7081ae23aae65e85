"""The page for everyone: small screens, the dark, the keyboard, screen readers, any prefix."""

from __future__ import annotations

import aiohttp.web
import pytest
from playwright.async_api import expect

from reverie.testing import Script, ScriptedEngine
from tests.browser.conftest import WIDER, OpenPage, ask, serious
from tests.harness import Gateway, StartGateway

LONG = "A" * 300 + "\n\n| " + " | ".join("column" for _ in range(20)) + " |\n|" + "-|" * 20
CODE = "\n\n```python\n" + "x = 1  # " + "y" * 300 + "\n```\n"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
async def test_axe_finds_nothing_serious(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, axe: str, width: int, scheme: str
) -> None:
    engine.script = Script(tokens=(LONG, CODE), reasoning=("Hm.",))
    page = await open_page(
        gateway.url, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    assert await serious(page, axe) == []
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_be_visible()
    if width == 360:
        await page.get_by_role("button", name="Settings").click()
    for summary in ("More", "Copy as…", "Reasoning"):
        await page.get_by_text(summary, exact=True).click()
    assert await serious(page, axe) == []


async def test_axe_finds_nothing_serious_where_a_key_is_asked_for(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage, axe: str
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "k"})
    page = await open_page(gateway.url)
    await expect(page.get_by_role("form", name="This server asks")).to_be_visible()
    assert await serious(page, axe) == []


@pytest.mark.parametrize("width", [360, 768, 1400])
async def test_nothing_is_wider_than_the_screen(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, width: int
) -> None:
    engine.script = Script(tokens=(LONG, CODE))
    page = await open_page(gateway.url, viewport={"width": width, "height": 640})
    assert await page.evaluate(WIDER) <= 0
    await ask(page, "B" * 300)
    await expect(page.locator(".figures")).to_be_visible()
    for name in ("Conversations", "Settings"):
        button = page.get_by_role("button", name=name, exact=True)
        if await button.get_attribute("aria-expanded") == "false":
            await button.click()
    await page.get_by_text("Copy as…").click()
    assert await page.evaluate(WIDER) <= 0
    log = page.get_by_role("log")
    assert await log.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
async def test_it_is_as_light_as_the_system_is(
    gateway: Gateway, open_page: OpenPage, scheme: str, is_dark: bool
) -> None:
    page = await open_page(gateway.url, color_scheme=scheme)
    colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))
    assert (brightness < 200) is is_dark


async def test_a_whole_conversation_takes_no_mouse(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url, viewport={"width": 360, "height": 800})
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to your message")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.type("One")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("Two")
    await page.keyboard.press("Enter")
    await expect(page.locator(".assistant .text")).to_have_text("Hello world")
    assert engine.requests[-1].body["messages"][-1]["content"] == "One\nTwo"
    await expect(page.get_by_label("Your message")).to_be_focused()

    # While an answer is written Enter sends nothing, and its last text isn't its end.
    await expect(page.locator(".figures")).to_be_visible()
    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    await page.keyboard.type("Again")
    await page.keyboard.press("Enter")
    await engine.wait_for(lambda e: e.stalled, 30)
    await page.keyboard.press("Escape")
    await expect(page.locator(".figures").last).to_contain_text("stopped")

    names: list[str] = []
    for _ in range(40):
        await page.keyboard.press("Shift+Tab")
        names.append(await page.evaluate("document.activeElement.textContent.trim()"))
        if names[-1] == "Settings":
            break
    assert names[-1] == "Settings"
    assert "Edit" in names
    await page.keyboard.press("Space")
    await expect(page.get_by_label("temperature")).to_be_visible()


async def test_a_small_screen_is_left_to_the_conversation(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(tokens=(LONG * 5,))
    page = await open_page(gateway.url, viewport={"width": 360, "height": 800})
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_be_visible()
    log = await page.get_by_role("log").bounding_box()
    assert log is not None
    assert log["y"] < 120
    assert log["height"] > 500
    await expect(page.locator(".figures")).to_be_in_viewport()
    await expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
    for name in ("New chat", "Conversations", "Settings"):
        await expect(page.get_by_role("button", name=name)).to_be_in_viewport()


async def test_a_screen_reader_finds_its_way_and_hears_what_happens(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    page = await open_page(gateway.url, viewport={"width": 1400, "height": 800})
    for role in ("banner", "main", "complementary", "log"):
        await expect(page.get_by_role(role)).to_have_count(1)
    for name in ("Views", "Conversations"):
        await expect(page.get_by_role("navigation", name=name)).to_be_visible()
    await ask(page, "Hi")
    status = page.get_by_role("status")
    await expect(status).to_have_text("The answer is being written.")
    answer = page.get_by_role("article").last
    await expect(answer).to_have_attribute("aria-busy", "true")
    engine.resume()
    await expect(status).to_have_text("The answer is complete.")
    await expect(answer).to_have_attribute("aria-busy", "false")


async def test_it_works_under_a_prefix(gateway: Gateway, open_page: OpenPage) -> None:
    """As behind a proxy that takes the prefix off."""

    async def pass_on(request: aiohttp.web.Request) -> aiohttp.web.Response:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "origin")}
        async with gateway.http.request(
            request.method,
            gateway.url + request.path.removeprefix("/some/where"),
            data=await request.read(),
            headers=headers,
        ) as answer:
            return aiohttp.web.Response(
                status=answer.status,
                body=await answer.read(),
                headers={"Content-Type": answer.headers["Content-Type"]},
            )

    app = aiohttp.web.Application()
    app.router.add_route("*", "/some/where/{path:.*}", pass_on)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        page = await open_page(f"http://127.0.0.1:{port}/some/where/")
        await ask(page, "Hi")
        await expect(page.locator(".assistant .text")).to_have_text("Hello world")
    finally:
        await runner.cleanup()
