"""Settings that nobody has touched: the model's own defaults hold, and the page says which."""

from __future__ import annotations

import json

from playwright.async_api import Page, expect

from reverie.testing import ScriptedEngine
from tests.browser.conftest import OpenPage, ask
from tests.harness import Gateway, StartGateway

WIDE = {"width": 1400, "height": 1000}
OWN = {"temperature": 0.2, "max_tokens": 99}


async def answered(page: Page, text: str = "Hi") -> None:
    before = await page.locator(".figures").count()
    await ask(page, text)
    await expect(page.locator(".figures")).to_have_count(before + 1)


async def test_an_untouched_control_sends_nothing_and_shows_what_holds(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await start_gateway(engine, model={"defaults": OWN})
    page = await open_page(gateway.url, viewport=WIDE)
    field = page.get_by_label("temperature")
    await expect(field).to_have_value("")
    await expect(field).to_have_attribute("placeholder", "0.2")
    await expect(field).to_have_accessible_description(
        "How freely tokens are chosen; 0 always takes the likeliest. "
        "Default: 0.2, this model's own."
    )
    await expect(page.get_by_label("top_p")).to_have_attribute("placeholder", "1")
    await answered(page)
    body = engine.requests[-1].body
    assert (body["temperature"], body["max_tokens"]) == (0.2, 99)
    await page.get_by_text("Copy as…").click()
    copied = await page.locator("#copy-text").inner_text()
    assert "temperature" not in copied


async def test_a_control_that_is_set_is_sent_until_it_is_reset(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await start_gateway(engine, model={"defaults": OWN})
    page = await open_page(gateway.url, viewport=WIDE)
    field = page.get_by_label("temperature")
    await field.fill("0.7")  # what the API would take, were it not for the model
    await answered(page)
    body = engine.requests[-1].body
    assert (body["temperature"], body["max_tokens"]) == (0.7, 99)
    await page.reload()
    await expect(field).to_have_value("0.7")
    reset = page.get_by_role("button", name="Reset temperature")
    await reset.focus()
    await page.keyboard.press("Enter")
    await expect(reset).to_have_count(0)
    await expect(field).to_be_focused()
    await answered(page, "Again")
    assert engine.requests[-1].body["temperature"] == 0.2


async def test_the_api_s_own_defaults_are_told_of_a_model_without_any(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url, viewport=WIDE)
    for name, value in (("temperature", "0.7"), ("max_tokens", "256"), ("top_k", "-1")):
        await expect(page.get_by_label(name)).to_have_attribute("placeholder", value)
    await page.get_by_label("stream").uncheck()
    await page.get_by_role("button", name="Reset stream").click()
    await expect(page.get_by_label("stream")).to_be_checked()
    await answered(page)
    assert engine.requests[-1].body["temperature"] == 0.7


async def test_settings_that_were_kept_before_are_untouched_where_they_were_the_defaults(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url, viewport=WIDE)
    kept = {"temperature": 0.7, "max_tokens": 12, "top_p": 1, "stream": False, "seed": ""}
    message = {"role": "user", "content": "From before"}
    talk = {"id": "a", "changed": 1, "system": "", "messages": [message]}
    await page.evaluate(
        "([settings, talk]) => { localStorage['reverie.settings'] = settings;"
        " localStorage['reverie.conversation.a'] = talk; }",
        [json.dumps(kept), json.dumps(talk)],
    )
    await page.reload()
    await expect(page.get_by_label("temperature")).to_have_value("")
    await expect(page.get_by_label("max_tokens")).to_have_value("12")
    await expect(page.get_by_label("stream")).not_to_be_checked()
    await page.get_by_role("button", name="From before", exact=True).click()
    await expect(page.locator(".user .text")).to_have_text("From before")
