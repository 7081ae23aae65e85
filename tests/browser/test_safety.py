"""What models and users write stays text, whatever it looks like."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from reverie.testing import Script, ScriptedEngine
from tests.browser.conftest import OpenPage, ask
from tests.harness import Gateway

HOSTILE = """<img src=x onerror="window.hacked = 1">
<script>window.hacked = 2</script>
<svg onload="window.hacked = 3"></svg>
<iframe srcdoc="<script>parent.hacked = 4</script>"></iframe>
<style>body { display: none }</style>

[a](javascript:window.hacked=5) [b](JaVaScRiPt:window.hacked=6) <javascript:window.hacked=7>
[c](data:text/html,<script>window.hacked=8</script>) [d](vbscript:x)
![e](https://elsewhere.example/pixel.png) ![f](x" onerror="window.hacked=9)
[good](https://elsewhere.example/page "A title")

```js"onclick="window.hacked=10
<img src=x onerror="window.hacked = 11">
```

<div class="error" id="message" style="position:fixed">not ours</div>
"""


@pytest.mark.parametrize("author", ["model", "user"])
async def test_hostile_text_runs_nothing_and_loads_nothing(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, author: str
) -> None:
    engine.script = Script(
        tokens=tuple(HOSTILE[at : at + 7] for at in range(0, len(HOSTILE), 7)),
        reasoning=(HOSTILE,),
    )
    page = await open_page(gateway.url)
    await ask(page, HOSTILE if author == "user" else "Hi")
    await expect(page.locator(".figures")).to_be_visible()
    await page.get_by_text("Reasoning", exact=True).click()
    log = page.get_by_role("log")
    for element in ("img", "script", "svg", "iframe", "style", "object", "form", "input"):
        await expect(log.locator(element)).to_have_count(0)
    found = await page.evaluate(
        """() => [...document.querySelectorAll("[role=log] *")].flatMap((node) =>
            [...node.attributes].map(({name, value}) => [name, value]))"""
    )
    assert not [one for one in found if one[0].startswith("on") or one[0] == "style"]
    links = {value for name, value in found if name == "href"}
    assert links == {"https://elsewhere.example/page"}
    for link in await log.get_by_role("link").all():
        assert "noopener" in (await link.get_attribute("rel") or "")
        await link.click(trial=True)
    await expect(log.get_by_text("<script>window.hacked = 2").first).to_be_visible()
    assert await page.evaluate("window.hacked") is None


async def test_the_policy_runs_no_script_that_the_server_did_not_send(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url, breaks_policy=True)
    blocked = await page.evaluate(
        """() => new Promise((resolve) => {
            document.addEventListener("securitypolicyviolation", (e) => resolve(e.blockedURI));
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        })"""
    )
    assert blocked == "inline"
    assert await page.evaluate("window.hacked") is None


async def test_tables_and_code_are_drawn_and_code_is_copied(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    code = "def f(x):\n    return '<b>' + x  # no HTML\n"
    text = f"| a | b |\n| - | - |\n| 1 | 2 |\n\n```python\n{code}```\n"
    engine.script = Script(tokens=tuple(text[at : at + 3] for at in range(0, len(text), 3)))
    page = await open_page(gateway.url, permissions=["clipboard-read", "clipboard-write"])
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_be_visible()
    await expect(page.get_by_role("table").get_by_role("cell")).to_have_text(["1", "2"])
    await expect(page.locator("pre .hljs-keyword").first).to_have_text("def")
    await page.get_by_role("button", name="Copy code").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == code
