"""What the tests of the views *Keys* and *Usage* begin with."""

from __future__ import annotations

import asyncio
from typing import Any

from playwright.async_api import Page, expect

from reverie.testing import ScriptedEngine
from tests.browser.conftest import ADMIN_KEY
from tests.harness import Gateway, StartGateway, chat

PRICE = {"input": "1USD", "cached": "1USD", "output": "10USD"}
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\u05d0\u05d1\u05d2 =1+1 \u05d3\u05d4",
    "W" * 200,
)
"""Names of keys that the server takes: HTML, from right to left, as long as names may be."""


async def gateway_with_keys(start_gateway: StartGateway, engine: ScriptedEngine) -> Gateway:
    return await start_gateway(
        engine, environ={"REVERIE_ADMIN_KEY": ADMIN_KEY}, model={"price": PRICE}
    )


async def make_key(gateway: Gateway, name: str, **more: Any) -> str:
    """Its secret. From now on the server answers nobody without a key."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    status, key, _ = await gateway.post({"name": name, **more}, "/admin/v1/keys", headers)
    assert status == 201, key
    async with asyncio.timeout(10):  # that it has keys is known to it within a second
        while (await gateway.get("/v1/usage"))[0] != 401:
            await asyncio.sleep(0.05)
    secret: str = key["secret"]
    return secret


async def say(gateway: Gateway, secret: str) -> tuple[int, Any]:
    """Have a key's holder chat."""
    headers = {"Authorization": f"Bearer {secret}"}
    status, answer, _ = await gateway.post(chat(max_tokens=10), "/v1/chat/completions", headers)
    return status, answer


async def go_to(page: Page, view: str) -> None:
    await page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
    await expect(page.locator("main.view h2").first).to_be_visible()


async def use_key(page: Page, secret: str) -> None:
    """Give the view *Usage* one's own key."""
    question = page.get_by_role("form", name="This server asks for an API key")
    await question.get_by_label("API key").fill(secret)
    await question.get_by_role("button", name="Use this key").click()


async def new_key(page: Page, name: str, **fields: str) -> str:
    """Make a key on the page; give the secret that it shows."""
    await page.get_by_role("button", name="New key").click()
    await page.get_by_label("Name", exact=True).fill(name)
    for label, value in fields.items():
        await page.get_by_role("dialog").get_by_label(label, exact=True).fill(value)
    await page.get_by_role("button", name="Make the key").click()
    dialog = page.get_by_role("dialog", name="The secret of")
    secret = await dialog.get_by_label("Secret", exact=True).text_content()
    await dialog.get_by_role("button", name="Done").click()
    await expect(page.locator("dialog")).to_have_count(0)  # closed ones have no role
    assert secret
    return secret


async def holds(page: Page, secret: str) -> bool:
    """True if the page or the browser's storage has it anywhere."""
    found: bool = await page.evaluate(
        """(secret) => {
          const stored = [localStorage, sessionStorage].map((one) => JSON.stringify({ ...one }));
          const fields = [...document.querySelectorAll("input, textarea")].map((one) => one.value);
          const texts = [document.documentElement.outerHTML, ...stored, ...fields];
          return texts.some((text) => text.includes(secret));
        }""",
        secret,
    )
    return found
