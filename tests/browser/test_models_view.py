"""The view "Models": how models and backends stand, and the operator's hands on them."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from reverie.errors import ConfigurationError
from reverie.testing import Script, ScriptedEngine
from tests.browser.conftest import ADMIN_KEY, WIDER, OpenPage, open_view, serious
from tests.contract.conftest import reverie_serve
from tests.harness import Gateway, StartGateway, chat
from tests.models.gguf_file import SMALL
from tests.models.hub_server import HubServer

ENVIRON = {"REVERIE_ADMIN_KEY": ADMIN_KEY}
LONG = Script(tokens=["word "] * 5_000, delay=0.01)
FILE = SMALL + bytes(range(256)) * 4_000


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(
        engine,
        environ=ENVIRON,
        model={"price": {"input": "0.15USD", "output": "0.60USD"}, "limits": {"rpm": 6_000}},
    )


async def test_a_model_shows_what_it_is(gateway: Gateway, open_page: OpenPage) -> None:
    page = await open_view(open_page, gateway.url, "Models")
    card = page.get_by_role("article", name="m", exact=True)
    for told in ("ready", "default", "Also called alias", "generates text", "6,000 requests a"):
        await expect(card).to_contain_text(told)
    await expect(card).to_contain_text("0.15 in, 0.15 cached, 0.60 out (USD)")
    await expect(card.get_by_role("table", name="Backends of m")).to_contain_text("takes requests")
    await expect(card.get_by_role("button", name="Unload m")).to_have_count(0)


@pytest.mark.real
async def test_the_real_model_is_unloaded_and_loaded(tmp_path: Path, open_page: OpenPage) -> None:
    with reverie_serve(cwd=tmp_path, REVERIE_ADMIN_KEY=ADMIN_KEY) as served:
        page = await open_view(open_page, served.url, "Models")
        card = page.get_by_role("article", name="smollm2-135m")
        await expect(card.locator(".badge").first).to_have_text("ready")
        unload = card.get_by_role("button", name="Unload smollm2-135m")
        await unload.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("smollm2-135m was unloaded.")).to_be_visible()
        await expect(card.locator(".badge").first).to_have_text("not loaded")
        load = card.get_by_role("button", name="Load smollm2-135m")
        await expect(load).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(card.locator(".badge").first).to_have_text("ready")
        await expect(card).to_contain_text("Memory, about")


async def test_a_backend_is_drained_while_a_request_runs_there_and_put_back(
    start_gateway: StartGateway, open_page: OpenPage
) -> None:
    async with ScriptedEngine(LONG) as one, ScriptedEngine(LONG) as two:
        gateway = await start_gateway(one, two, environ=ENVIRON)
        running = asyncio.create_task(gateway.post(chat(max_tokens=5_000)))
        await gateway.until(lambda: one.in_flight + two.in_flight == 1)
        busy, free = (one, two) if one.in_flight else (two, one)
        name = next(
            state.name for state in gateway.pool().states if busy.url.startswith(state.backend.url)
        )
        page = await open_view(open_page, gateway.url, "Models")
        row = page.get_by_role("row").filter(has_text=name)
        await row.get_by_role("button", name=f"Drain {name}").click()
        await expect(row).to_contain_text("drained")
        await expect(row).to_contain_text("1 request still runs there.")
        others = [asyncio.create_task(gateway.post(chat(max_tokens=5_000))) for _ in range(3)]
        await gateway.until(lambda: free.in_flight == 3)
        assert busy.in_flight == 1
        running.cancel()
        await expect(row).to_contain_text("Nothing runs there any more.")
        await row.get_by_role("button", name=f"Put back {name}").click()
        await expect(row).to_contain_text("takes requests")
        for task in others:
            task.cancel()
        await asyncio.gather(running, *others, return_exceptions=True)


async def test_a_backend_in_trouble_says_why(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_view(open_page, gateway.url, "Models")
    await expect(page.get_by_text("takes requests")).to_be_visible()
    engine.script = Script(status=500)
    for _ in range(3):
        await gateway.post(chat())
    table = page.get_by_role("table", name="Backends of m")
    # Its circuit opens for a second: the page may see it closed again by the first probe.
    seen = "It failed: no connection|Its wait is over|It answers probes again after trouble"
    await expect(table).to_contain_text(re.compile(seen))
    await expect(table).to_contain_text("The backend failed, ")


@pytest.mark.real
async def test_a_refusal_is_a_sentence(tmp_path: Path, open_page: OpenPage) -> None:
    with reverie_serve(cwd=tmp_path, REVERIE_ADMIN_KEY=ADMIN_KEY) as served:
        page = await open_view(open_page, served.url, "Models")
        await page.evaluate(
            """() => { fetch("/llm", {method: "POST", headers: {"Content-Type":
            "application/json"}, body: JSON.stringify({stream: true, max_tokens: 4000, messages:
            [{role: "user", content: "Tell a very long story"}], ignore_eos: true})}); }"""
        )
        card = page.get_by_role("article", name="smollm2-135m")
        await expect(card.get_by_role("meter").first).to_have_attribute("value", "1")
        await card.get_by_role("button", name="Unload smollm2-135m").click()
        alert = page.get_by_role("alert").filter(has_text="request")
        await expect(alert).to_contain_text("1 request holds the model.")
        await page.close()  # the answer ends, for which a stop would wait


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "home"))
    with HubServer(repos={"owner/Small-GGUF": {"m.Q4_0.gguf": FILE}}) as hub:
        hub.use(monkeypatch, tmp_path / "hf")
        yield hub


async def fetch(page: Page, source: str) -> None:
    await page.get_by_label("From the Hugging Face hub").fill(source)
    await page.get_by_role("button", name="Fetch", exact=True).click()


async def test_a_model_is_fetched_with_its_progress_and_then_served(
    hub: HubServer, gateway: Gateway, open_page: OpenPage
) -> None:
    goes_on = threading.Event()
    hub.cdn.after_bytes = (len(FILE) // 2, goes_on.wait)
    page = await open_view(open_page, gateway.url, "Models")
    await fetch(page, "hf:owner/Small-GGUF")
    progress = page.get_by_role("progressbar", name="Fetching hf:owner/Small-GGUF")
    await expect(progress).to_be_visible()
    await expect(page.get_by_text("of 1.0 MB")).to_be_visible()
    goes_on.set()
    lines = page.get_by_role("region", name="Lines to serve hf:owner/Small-GGUF")
    await expect(lines).to_have_text(
        '[[models]]\nname = "small"\nsource = "hf:owner/Small-GGUF"\n', use_inner_text=True
    )
    await expect(progress).to_have_count(0)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy").click()
    assert "[[models]]" in await page.evaluate("navigator.clipboard.readText()")


async def test_a_download_is_cancelled(
    hub: HubServer, gateway: Gateway, open_page: OpenPage
) -> None:
    goes_on = threading.Event()
    hub.cdn.after_bytes = (len(FILE) // 2, goes_on.wait)
    page = await open_view(open_page, gateway.url, "Models")
    await fetch(page, "hf:owner/Small-GGUF")
    await page.get_by_role("button", name="Cancel the fetching of hf:owner/Small-GGUF").click()
    await expect(page.get_by_text("It was cancelled.")).to_be_visible()
    await expect(page.get_by_role("progressbar")).to_have_count(0)
    goes_on.set()


async def test_a_download_that_ends_at_once_does_not_stay_there_as_one_that_runs(
    gateway: Gateway, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = "import time; time.sleep(0.2); print('{\"size\": 5}')"
    monkeypatch.setattr(gateway.app._pulls, "_program", (sys.executable, "-c", quick))
    page = await open_view(open_page, gateway.url, "Models")
    await fetch(page, "hf:owner/Small-GGUF")
    await expect(page.get_by_text("It is here.")).to_be_visible()
    await expect(page.get_by_role("progressbar")).to_have_count(0)


async def test_why_a_download_failed_is_a_sentence(
    hub: HubServer, gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_view(open_page, gateway.url, "Models")
    await fetch(page, "hf:owner/none")
    await expect(page.locator(".card .error")).to_contain_text("owner/none")
    await fetch(page, "/etc/passwd")
    await expect(page.get_by_role("alert").filter(has_text="hf:OWNER/REPO")).to_be_visible()


async def test_models_to_choose_from_say_what_they_need(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_view(open_page, gateway.url, "Models")
    await page.get_by_text("Models that are worth a try").click()
    table = page.get_by_role("table", name="Models to fetch")
    await expect(table.get_by_role("row", name="smollm2-135m")).to_contain_text("98 MB")
    await expect(table.get_by_role("row", name="smollm2-135m")).to_contain_text("known beforehand")
    await expect(table.get_by_role("button").first).to_have_accessible_name(
        re.compile("^Fetch hf:")
    )


async def test_a_reload_is_shown_and_then_done(gateway: Gateway, open_page: OpenPage) -> None:
    page = await open_view(open_page, gateway.url, "Models")
    show = page.get_by_role("button", name="Show what a reload would change")
    await show.click()
    await expect(page.get_by_text("A reload would change nothing.")).to_be_visible()
    (model,) = gateway.written["models"]
    gateway.written["server"]["queue_size"] = 77
    gateway.written["server"]["ollama"] = True
    gateway.written["models"] = [
        {**model, "default": True},
        {"name": "<b>new</b>", "backends": model["backends"]},
    ]
    await show.click()
    table = page.get_by_role("table", name="What a reload would change")
    row = table.get_by_role("row").filter(has_text="server.queue_size")
    await expect(row).to_contain_text("77")
    await expect(row).to_contain_text("at once")
    await expect(table.get_by_role("row").filter(has_text="server.ollama")).to_contain_text(
        "after a restart"
    )
    await expect(page.get_by_text("Models that are added: <b>new</b>")).to_be_visible()
    await page.get_by_role("button", name="Reload", exact=True).click()
    await expect(page.get_by_text("The new configuration is in force.")).to_contain_text(
        "Only a restart changes server.ollama."
    )
    await expect(page.get_by_role("article", name="<b>new</b>")).to_be_visible()


async def test_what_is_wrong_with_a_configuration_is_told(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_view(open_page, gateway.url, "Models")

    def refuse() -> None:
        raise ConfigurationError(["reverie.toml: server.port: write a number"])

    gateway.read = refuse  # type: ignore[assignment,return-value]
    await page.get_by_role("button", name="Show what a reload would change").click()
    alert = page.get_by_role("alert").filter(has_text="nothing was changed")
    await expect(alert.get_by_role("listitem")).to_have_text(
        "reverie.toml: server.port: write a number"
    )
    await expect(page.get_by_role("button", name="Reload", exact=True)).to_have_count(0)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
async def test_it_is_for_everyone(
    hub: HubServer,
    gateway: Gateway,
    engine: ScriptedEngine,
    open_page: OpenPage,
    axe: str,
    width: int,
    scheme: str,
) -> None:
    engine.script = Script(status=500)
    for _ in range(3):
        await gateway.post(chat())
    size = {"width": width, "height": 800}
    page = await open_view(open_page, gateway.url, "Models", viewport=size, color_scheme=scheme)
    gateway.written["server"]["queue_size"] = 77
    await page.get_by_role("button", name="Show what a reload would change").click()
    await expect(page.get_by_role("table", name="What a reload would change")).to_be_visible()
    await page.get_by_text("Models that are worth a try").click()
    await fetch(page, "hf:owner/Small-GGUF")
    await expect(page.get_by_role("region", name="Lines to serve")).to_be_visible()
    assert await serious(page, axe) == []
    assert await page.evaluate(WIDER) <= 0
    view = page.locator("main.view")
    assert await view.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0
