"""The view "Activity": what the operator sees of the server, from second to second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, expect

from reverie.testing import Script, ScriptedEngine
from tests.breaking import Link
from tests.browser.conftest import ADMIN_KEY, WIDER, OpenPage, open_view, serious
from tests.harness import Gateway, StartGateway, chat

ENVIRON = {"REVERIE_ADMIN_KEY": ADMIN_KEY, "REVERIE_API_KEYS": "a-user-key"}
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
AS_USER = {"Authorization": "Bearer a-user-key"}
LONG = Script(tokens=["word "] * 5_000, delay=0.01)


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, environ=ENVIRON, backend={"slots": 1})


class Asked:
    """Requests that run beside a test."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.tasks: list[asyncio.Task[Any]] = []

    def ask(self, request_id: str) -> asyncio.Task[Any]:
        headers = {**AS_USER, "X-Request-Id": request_id}
        task = asyncio.create_task(self._gateway.post(chat(max_tokens=5_000), headers=headers))
        self.tasks.append(task)
        return task


@pytest.fixture
async def asked(gateway: Gateway) -> AsyncIterator[Asked]:
    asked = Asked(gateway)
    yield asked
    for task in asked.tasks:
        task.cancel()
    await asyncio.gather(*asked.tasks, return_exceptions=True)


def table(page: Page, caption: str) -> Any:
    return page.get_by_role("table", name=caption)


async def test_requests_are_seen_from_the_queue_to_their_answer_and_one_is_cancelled(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, asked: Asked
) -> None:
    engine.script = LONG
    page = await open_view(open_page, gateway.url, "Activity")
    await expect(page.get_by_text("No request runs at the moment.")).to_be_visible()
    first = asked.ask("first")
    await gateway.until(lambda: engine.in_flight == 1)
    second = asked.ask("second")
    running = table(page, "Running requests")
    rows = running.get_by_role("row")
    await expect(rows.nth(1)).to_contain_text("static-1")
    await expect(rows.nth(1)).to_contain_text("answers")
    await expect(rows.nth(2)).to_contain_text("waits for a slot")
    queue = table(page, "Slots and queues of the models").get_by_role("row").nth(1)
    await expect(queue).to_contain_text("1 of 1")
    await expect(queue.get_by_role("cell").nth(2)).to_have_text("1")
    await expect(queue.get_by_role("meter", name="Slots of m in use")).to_have_attribute(
        "value", "1"
    )
    tokens = page.locator(".tiles div", has_text="Tokens / s").locator("dd")
    await expect(tokens).not_to_have_text("–")

    await page.get_by_role("button", name="Cancel the request first").click()
    question = page.get_by_role("dialog", name="Cancel this request?")
    await expect(question).to_contain_text("static-1")
    await question.get_by_role("button", name="Cancel the request").click()
    status, answer, _ = await first
    assert (status, answer["error"]["code"]) == (409, "answer_cancelled")
    await expect(page.get_by_text("The request first was cancelled.")).to_be_visible()
    await expect(rows).to_have_count(2)
    await expect(rows.nth(1)).to_contain_text("answers")
    assert not second.done()


async def test_a_request_that_is_gone_when_it_is_cancelled_is_told_so(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, asked: Asked
) -> None:
    engine.script = LONG
    page = await open_view(open_page, gateway.url, "Activity")
    first = asked.ask("first")
    await page.get_by_role("button", name="Cancel the request first").click()
    first.cancel()
    await gateway.until(lambda: gateway.pool().in_flight == 0)
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the request").click()
    await expect(page.get_by_text("No request with this id runs here.")).to_be_visible()


async def test_focus_stays_in_the_list_while_it_is_drawn_anew(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, asked: Asked
) -> None:
    engine.script = LONG
    page = await open_view(open_page, gateway.url, "Activity")
    first = asked.ask("first")
    button = page.get_by_role("button", name="Cancel the request first")
    await button.focus()
    tokens = table(page, "Running requests").get_by_role("row").nth(1).get_by_role("cell").nth(5)
    before = await tokens.inner_text()
    await expect(tokens).not_to_have_text(before)
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(button).to_be_focused()
    first.cancel()
    await expect(page.get_by_role("heading", name="Running requests")).to_be_focused()


async def test_the_last_hour_has_charts_sentences_and_a_table(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    for _ in range(3):
        await gateway.post(chat(), headers=AS_USER)
    page = await open_view(open_page, gateway.url, "Activity")
    figures = page.get_by_role("figure")
    await expect(figures).to_have_count(4)
    await expect(figures.locator("canvas")).to_have_count(4)
    await expect(figures.first).to_contain_text("3 requests in the last hour, none of them failed")
    await expect(figures.nth(1)).to_contain_text("tokens in the last hour")
    await expect(figures.nth(2)).to_contain_text("95 of 100 at most")
    await page.get_by_text("The numbers as a table").click()
    row = table(page, "The last hour, by minutes").get_by_role("row").nth(1)
    await expect(row.get_by_role("cell").nth(1)).to_have_text("3")

    drawn = (
        "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, "
        "canvas.height).data].reduce((sum, value) => sum + value, 0)"
    )
    chart = figures.first.locator("canvas")
    in_light = await chart.evaluate(drawn)
    await page.emulate_media(color_scheme="dark")
    async with asyncio.timeout(30):
        while await chart.evaluate(drawn) == in_light:
            await asyncio.sleep(0.05)
    await page.set_viewport_size({"width": 360, "height": 800})
    await expect(page.locator(".uplot").first).to_be_in_viewport()
    async with asyncio.timeout(30):
        while await page.evaluate(WIDER) > 0:
            await asyncio.sleep(0.05)


async def test_recent_errors_are_told_in_words_with_the_requests_id(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_view(open_page, gateway.url, "Activity")
    await expect(page.get_by_text("No request failed since the server started.")).to_be_visible()
    engine.script = Script(status=500)
    await gateway.post(chat(), headers={**AS_USER, "X-Request-Id": "<b>mine</b>"})
    await gateway.post(chat(), headers={**AS_USER, "X-Request-Id": "mine"})
    row = table(page, "Recent errors").get_by_role("row").nth(1)
    await expect(row).to_contain_text("The backend failed")
    await expect(row).to_contain_text("static-1")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await row.get_by_role("button", name="Copy").click()
    await expect(row.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == "mine"


async def test_a_users_key_is_refused_and_forgotten(gateway: Gateway, open_page: OpenPage) -> None:
    page = await open_page(gateway.url)
    await page.get_by_role("link", name="Activity").click()
    await page.get_by_label("Admin key").fill("a-user-key")
    await page.get_by_role("button", name="Use this key").click()
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("admin key")
    await expect(page.get_by_label("Admin key")).to_have_value("")
    assert await page.evaluate("sessionStorage.getItem('reverie.admin-key')") is None


async def test_a_restart_of_the_server_is_told_and_got_over(
    gateway: Gateway, engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    async with Link(gateway.url) as link:
        page = await open_view(open_page, link.url, "Activity")
        await expect(page.get_by_text("No request runs at the moment.")).to_be_visible()
        link.server = "http://127.0.0.1:9"  # nobody listens there
        link.cut()
        notice = page.get_by_role("status").filter(has_text="Trying again…")
        await expect(notice).to_contain_text("The server can't be reached.")
        restarted = await start_gateway(engine, environ=ENVIRON)
        link.server = restarted.url
        await expect(notice).to_have_count(0)
        engine.script = LONG
        task = asyncio.create_task(
            restarted.post(chat(max_tokens=5_000), headers={**AS_USER, "X-Request-Id": "new"})
        )
        await expect(page.get_by_role("button", name="Cancel the request new")).to_be_visible()
        task.cancel()


async def test_a_tab_that_nobody_sees_watches_nothing(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    async with Link(gateway.url) as link:
        page = await open_view(open_page, link.url, "Activity")
        await expect(page.get_by_text("No request runs at the moment.")).to_be_visible()
        assert link.streams == 1
        await _hide(page, hidden=True)
        async with asyncio.timeout(30):
            while link.streams:
                await asyncio.sleep(0.02)
        await _hide(page, hidden=False)
        async with asyncio.timeout(30):
            while not link.streams:
                await asyncio.sleep(0.02)
        await page.get_by_role("link", name="Chat").click()
        async with asyncio.timeout(30):
            while link.streams:
                await asyncio.sleep(0.02)


async def _hide(page: Page, *, hidden: bool) -> None:
    """What the browser does when another tab is chosen."""
    await page.evaluate(
        f"""Object.defineProperty(document, "hidden", {{value: {str(hidden).lower()},
        configurable: true}}); document.dispatchEvent(new Event("visibilitychange"))"""
    )


async def test_twenty_watchers_see_the_same(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, asked: Asked
) -> None:
    engine.script = LONG
    asked.ask("first")
    await gateway.until(lambda: engine.in_flight == 1)
    watching = [
        await gateway.http.get(gateway.url + "/admin/v1/live?stream=true", headers=AS_ADMIN)
        for _ in range(19)
    ]
    page = await open_view(open_page, gateway.url, "Activity")
    await expect(page.get_by_role("button", name="Cancel the request first")).to_be_visible()
    for response in watching:
        async for line in response.content:
            if b'"id":"first"' in line:
                break
        response.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
async def test_it_is_for_everyone(
    gateway: Gateway,
    engine: ScriptedEngine,
    open_page: OpenPage,
    asked: Asked,
    axe: str,
    width: int,
    scheme: str,
) -> None:
    await gateway.post(chat(), headers=AS_USER)
    engine.script = Script(status=500)
    await gateway.post(chat(), headers=AS_USER)
    engine.script = LONG
    asked.ask("first" + "-long" * 20)
    page = await open_view(
        open_page,
        gateway.url,
        "Activity",
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
    )
    await expect(table(page, "Running requests")).to_be_visible()
    await expect(page.locator("canvas")).to_have_count(4)
    await page.get_by_text("The numbers as a table").click()
    assert await serious(page, axe) == []
    assert await page.evaluate(WIDER) <= 0
    view = page.locator("main.view")
    assert await view.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0
