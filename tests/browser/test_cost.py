"""What an answer cost: the page's figure is the ledger's."""

from __future__ import annotations

from playwright.async_api import expect

from reverie.money import format_amount
from reverie.testing import Script, ScriptedEngine
from tests.browser.conftest import OpenPage, ask
from tests.harness import Gateway, StartGateway

ADMIN = "adm-0123456789abcdef"
PRICE = {"input": "0.181USD", "cached": "0.01USD", "output": "2.5USD"}


async def test_an_answer_tells_its_cost_as_the_ledger_has_it(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    engine.script = Script(tokens=("a", "b", "c"), prompt_tokens=1_001, cached_tokens=77)
    gateway = await start_gateway(
        engine, model={"price": PRICE}, environ={"REVERIE_ADMIN_KEY": ADMIN}
    )
    page = await open_page(gateway.url)
    await ask(page, "Hi")
    figures = page.locator(".figures")
    cost = 924 * 181 + 77 * 10 + 3 * 2500
    await expect(figures).to_contain_text(format_amount(cost, "USD"))
    headers = {"Authorization": f"Bearer {ADMIN}"}
    _, usage, _ = await gateway.get("/admin/v1/usage", headers)
    assert usage["total"]["costs"][0]["formatted"] == format_amount(cost, "USD")


async def test_an_answer_of_a_model_without_a_price_tells_no_cost(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url)
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_contain_text("first after")
    await expect(page.locator(".figures")).not_to_contain_text("0.00")
