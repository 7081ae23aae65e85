"""The view *Keys*: what its operator does there holds for the next request."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from playwright.async_api import expect

from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import KeySpec
from reverie.testing import ScriptedEngine
from reverie.times import now_ms
from tests.browser.accounts import (
    HOSTILE,
    gateway_with_keys,
    go_to,
    holds,
    make_key,
    new_key,
    say,
    use_key,
)
from tests.browser.conftest import ADMIN_KEY, WIDER, OpenPage, ask, open_view, serious
from tests.harness import StartGateway, store_of_servers

MANY = 1000


async def test_a_key_made_on_the_page_chats_and_is_counted(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    await make_key(gateway, "bob")
    page = await open_view(open_page, gateway.url, "Keys")
    secret = await new_key(page, "alice", Tags="team:search, prod", Budget="10USD/month")
    alice = page.get_by_role("listitem").filter(has_text="alice")
    await expect(alice).to_contain_text("team:search")
    await expect(alice).to_contain_text("0.00 USD of 10.00 USD/month")

    await go_to(page, "Usage")
    await use_key(page, secret)
    await expect(page.get_by_text("Nothing was used on these days.").first).to_be_visible()
    await page.get_by_role("link", name="Chat").click()
    await ask(page, "Hi")
    await expect(page.locator(".assistant .text")).to_have_text("Hello world")

    await go_to(page, "Usage")
    own = page.get_by_role("region", name="Usage")
    await expect(own.locator(".tiles")).to_contain_text("Requests1")
    await expect(own.get_by_role("region", name="By model")).to_contain_text("m")
    await page.get_by_role("button", name="All keys").click()
    table = page.get_by_role("region", name="By key").get_by_role("row").filter(has_text="alice")
    await expect(table).to_contain_text("USD")
    await page.get_by_role("combobox", name="By", exact=True).select_option("Tag")
    tagged = page.get_by_role("region", name="By tag").get_by_role("row")
    await expect(tagged).to_have_count(3)
    await expect(tagged.filter(has_text="team:search")).to_contain_text("USD")
    await expect(page.locator(".tiles")).to_contain_text("Requests1")


async def test_a_secret_is_shown_once_and_kept_nowhere(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    page = await open_view(open_page, gateway.url, "Keys")
    await expect(page.get_by_text("answers nobody without one")).to_be_visible()
    secret = await new_key(page, "alice")
    assert not await holds(page, secret)
    await expect(page.get_by_role("button", name="New key")).to_be_focused()

    await page.get_by_role("button", name="Rotate alice").click()
    await page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    shown = page.get_by_role("dialog", name="The secret of alice")
    await expect(shown).to_contain_text("can't be shown again")
    second = await shown.get_by_label("Secret", exact=True).text_content()
    assert second
    assert await holds(page, second)
    await page.keyboard.press("Escape")
    await expect(page.locator("dialog")).to_have_count(0)
    assert not await holds(page, second)
    assert (await say(gateway, second))[0] == 200
    async with asyncio.timeout(10):  # gateways know a secret for a second
        while (await say(gateway, secret))[0] != 401:
            await asyncio.sleep(0.1)


async def test_limits_changed_on_the_page_hold_for_the_next_request(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    secret = await make_key(gateway, "alice", tpm=100_000, model_limits={"m": {"concurrency": 3}})
    assert (await say(gateway, secret))[0] == 200
    page = await open_view(open_page, gateway.url, "Keys")
    sent: list[object] = []
    page.on("request", lambda r: sent.append(r.post_data_json) if r.method == "PATCH" else None)

    await page.get_by_role("button", name="Change alice").click()
    await page.get_by_label("Requests a minute").fill("1")
    await page.get_by_label("Tokens a minute").fill("")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page.locator(".terms")).to_contain_text("1 requests/min · more on 1 model")
    assert sent == [{"rpm": 1, "tpm": None}]
    assert (await say(gateway, secret))[0] == 429
    await expect(page.get_by_role("button", name="Change alice")).to_be_focused()

    await page.get_by_role("button", name="Change alice").click()
    await page.get_by_label("All, those to come included").uncheck()
    await page.get_by_role("checkbox", name="m", exact=True).check()
    await page.get_by_label("Ends", exact=True).select_option("30 days from now")
    await page.get_by_label("Tags", exact=True).fill("batch")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert sent[1:] == [{"tags": ["batch"], "models": ["m"], "expires_at": "30d"}]


async def test_a_revoked_key_is_refused_at_its_next_request(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    secret = await make_key(gateway, "alice")
    await make_key(gateway, "bob")
    page = await open_view(open_page, gateway.url, "Keys")
    await page.get_by_role("button", name="Revoke alice").click()
    await page.get_by_role("button", name="Cancel").click()
    assert (await say(gateway, secret))[0] == 200
    await page.get_by_role("button", name="Revoke alice").click()
    question = page.get_by_role("dialog", name="Revoke alice?")
    await question.get_by_role("button", name="Revoke").click()
    alice = page.get_by_role("listitem").filter(has_text="alice")
    await expect(alice.locator(".badge")).to_have_text("revoked")
    await expect(alice).to_be_focused()
    await expect(page.get_by_role("button", name="Rotate alice")).to_have_count(0)
    assert (await say(gateway, secret))[0] == 401

    await page.get_by_label("Status").select_option("Active")
    await expect(page.locator(".key-card")).to_have_count(1)
    await expect(page.locator(".key-card")).to_contain_text("bob")


@pytest.mark.parametrize(
    ("label", "value", "says"),
    [
        ("Name", "alice", "alice"),
        ("Budget", "much", "Write an amount"),
        ("Tags", "x" * 51, "1 to 50"),
    ],
)
async def test_what_the_server_refuses_is_said_beside_its_field(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    open_page: OpenPage,
    label: str,
    value: str,
    says: str,
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    await make_key(gateway, "alice")
    page = await open_view(open_page, gateway.url, "Keys")
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name", exact=True).fill("bob")
    field = dialog.get_by_label(label, exact=True)
    await field.fill(value)
    await dialog.get_by_role("button", name="Make the key").click()
    await expect(field).to_be_focused()
    await expect(field).to_have_attribute("aria-invalid", "true")
    described = await field.get_attribute("aria-describedby") or ""
    problem = dialog.locator(f"#{described.split()[0]}")
    await expect(problem).to_contain_text(says)
    await field.fill("carol" if label == "Name" else "")
    await dialog.get_by_role("button", name="Make the key").click()
    await expect(page.get_by_role("dialog", name="The secret of")).to_be_visible()


async def test_a_users_key_is_no_admin_key_and_is_not_kept(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    secret = await make_key(gateway, "alice")
    page = await open_page(gateway.url)
    await go_to(page, "Keys")
    await page.get_by_label("Admin key").fill(secret)
    await page.get_by_role("button", name="Use this key").click()
    await expect(page.locator("main.view").get_by_role("alert")).to_contain_text("admin key")
    await expect(page.get_by_label("Admin key")).to_have_value("")
    assert not await holds(page, secret)


async def test_hostile_names_are_text_and_widen_nothing(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    for name in HOSTILE:
        secret = await make_key(gateway, name, tags=[name[:50]], models=["m", "M" * 200])
        assert (await say(gateway, secret))[0] == 200
    page = await open_view(open_page, gateway.url, "Keys", viewport={"width": 360, "height": 800})
    for name in HOSTILE:
        await expect(page.locator(".key-card strong", has_text=name)).to_have_count(1)
    assert await page.evaluate(WIDER) <= 0
    main = page.locator("main.view")
    assert await main.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0
    await page.get_by_role("button", name=f"Change {HOSTILE[2]}").click()
    dialog = page.get_by_role("dialog")
    assert await dialog.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0
    assert await page.locator("img").count() == 0


async def test_a_key_is_made_by_keyboard_alone(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    page = await open_view(open_page, gateway.url, "Keys", viewport={"width": 360, "height": 800})
    await page.get_by_label("Name or id").focus()
    for _ in range(3):
        await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="New key")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Name", exact=True)).to_be_focused()
    await page.keyboard.type("alice")
    await page.keyboard.press("Tab")
    await page.keyboard.type("prod")
    for _ in range(2):
        await page.keyboard.press("Tab")
    await page.keyboard.type("7")
    await page.keyboard.press("Enter")
    shown = page.get_by_role("dialog", name="The secret of alice")
    secret = await shown.get_by_label("Secret", exact=True).text_content()
    await page.keyboard.press("Escape")
    await expect(page.locator(".key-card")).to_contain_text("7 requests/min")
    await expect(page.locator(".key-card")).to_contain_text("prod")
    await expect(page.get_by_role("button", name="New key")).to_be_focused()
    assert secret
    assert (await say(gateway, secret))[0] == 200


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
async def test_axe_finds_nothing_serious(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    open_page: OpenPage,
    axe: str,
    width: int,
    scheme: str,
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    await make_key(gateway, "alice", tags=["prod"], budget="10USD/month", rpm=5, expires_at="30d")
    page = await open_view(
        open_page,
        gateway.url,
        "Keys",
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
    )
    await expect(page.locator(".key-card")).to_have_count(1)
    assert await serious(page, axe) == []
    await page.get_by_role("button", name="New key").click()
    await page.get_by_label("Name", exact=True).fill("bob")
    await page.get_by_label("All, those to come included").uncheck()
    await page.get_by_text("Limits on single models").first.click()
    await page.get_by_role("button", name="Make the key").click()
    await expect(page.get_by_text("Name 1 to 1000 models")).to_be_visible()
    assert await serious(page, axe) == []
    await page.get_by_role("checkbox", name="m", exact=True).check()
    await page.get_by_role("button", name="Make the key").click()
    await expect(page.get_by_role("dialog", name="The secret of bob")).to_be_visible()
    assert await serious(page, axe) == []


async def test_a_thousand_keys_are_listed_and_searched_at_once(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage, tmp_path: Path
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    (store,) = store_of_servers(tmp_path)
    with store.write() as connection:
        for number in range(MANY):
            tags = ("even",) if number % 2 == 0 else ()
            spec = KeySpec(name=f"user {number:04}", rpm=60, budget="1USD/day", tags=tags)
            key_service.create(connection, spec, now_ms())
    begun = time.monotonic()
    page = await open_view(open_page, gateway.url, "Keys")
    cards = page.locator(".key-card")
    await expect(cards).to_have_count(50)
    await page.get_by_role("button", name="Show more").click()
    await expect(cards).to_have_count(100)
    await page.get_by_label("Name or id").fill("USER 0777")
    await expect(cards).to_have_count(1)
    await expect(cards).to_contain_text("user 0777")
    key_id = await cards.locator("code").text_content()
    await page.get_by_label("Name or id").fill(key_id or "")
    await expect(cards).to_have_count(1)
    await page.get_by_label("Name or id").fill("user 01")
    await page.get_by_label("Tag", exact=True).fill("even")
    await expect(page.get_by_role("status")).to_have_text("50 keys shown.")
    await page.get_by_label("Tag", exact=True).fill("no such tag")
    await expect(page.get_by_text("No key is such a one.")).to_be_visible()
    assert time.monotonic() - begun < 30
    assert ADMIN_KEY not in page.url
