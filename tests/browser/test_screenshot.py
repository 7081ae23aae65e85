"""The README's picture of the page: a real conversation, as the page looks now.

`make screenshot` takes it anew; a plain run of the tests only looks at it.
"""

from __future__ import annotations

import asyncio
import os

from playwright.async_api import expect

from tests.browser.conftest import FOLDER, OpenPage, ask
from tests.browser.palette import size_of, with_palette
from tests.contract.conftest import Served

ROOT = FOLDER.parents[1]
PICTURE = ROOT / "docs" / "images" / "page.png"
SIZE = {"width": 1280, "height": 800}
QUESTION = "Show me a Python function that reverses a string."


async def test_the_readme_shows_a_real_conversation(served: Served, open_page: OpenPage) -> None:
    page = await open_page(served.url, viewport=SIZE, color_scheme="light")
    await page.get_by_label("temperature").fill("0")
    await ask(page, QUESTION)
    await expect(page.locator(".figures")).to_contain_text("tokens/s")
    await expect(page.locator(".code-block").first).to_contain_text("def reverse_string")
    taken = await page.screenshot()
    if os.environ.get("REVERIE_SCREENSHOT"):
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_bytes(await asyncio.to_thread(with_palette, taken))
    shown = PICTURE.read_bytes()
    assert size_of(shown) == size_of(taken)
    assert len(shown) < 150_000
    assert "](docs/images/page.png)" in (ROOT / "README.md").read_text()
