"""A newcomer's first minute, on the real model."""

from __future__ import annotations

from playwright.async_api import expect

from tests.browser.conftest import OpenPage, ask
from tests.contract.conftest import Served


async def test_a_newcomer_opens_the_page_and_the_model_answers(
    served: Served, open_page: OpenPage
) -> None:
    page = await open_page(served.url, viewport={"width": 1400, "height": 1000})
    await expect(page.get_by_label("Model")).to_contain_text("smollm2-135m · ready")
    await page.get_by_label("temperature").fill("0")
    await page.get_by_label("max_tokens").fill("20")
    await page.get_by_label("System prompt").fill("You are a helpful assistant.")
    await ask(page, "What is the capital of France?")
    await expect(page.locator(".assistant .text")).to_contain_text("Paris")
    await expect(page.locator(".figures")).to_contain_text("first after")
    await ask(page, "Thank you.")
    await expect(page.locator(".assistant")).to_have_count(2)
    await expect(page.locator(".figures")).to_have_count(2)
