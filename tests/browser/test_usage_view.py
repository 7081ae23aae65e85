"""The view *Usage*: a key's holder sees that key's use alone, the operator that of all."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Page, expect
from sqlalchemy import insert

from reverie.store.database import schema
from reverie.testing import Script, ScriptedEngine
from tests.browser.accounts import HOSTILE, gateway_with_keys, go_to, make_key, say, use_key
from tests.browser.conftest import ADMIN_KEY, WIDER, OpenPage, serious
from tests.harness import Gateway, StartGateway, store_of_servers


async def as_operator(open_page: OpenPage, gateway: Gateway, **options: object) -> Page:
    """The view with the use of all keys."""
    page = await open_page(gateway.url, **options)
    await go_to(page, "Usage")
    await page.get_by_role("button", name="All keys").click()
    await page.get_by_label("Admin key").fill(ADMIN_KEY)
    await page.get_by_role("button", name="Use this key").click()
    await expect(page.get_by_role("heading", name="Last requests")).to_be_visible()
    return page


async def as_holder(open_page: OpenPage, gateway: Gateway, secret: str, **options: object) -> Page:
    """The view with the use of one's own key."""
    page = await open_page(gateway.url, **options)
    await go_to(page, "Usage")
    await use_key(page, secret)
    await expect(page.get_by_role("heading", name="By model")).to_be_visible()
    return page


def used_before(folder: Path, key: str, days: int, prompt_tokens: int) -> str:
    """Write one request into the sums of a day that has passed; give the day."""
    day = datetime.now(UTC).date() - timedelta(days=days)
    row = {
        "day": (day - datetime(1970, 1, 1, tzinfo=UTC).date()).days,
        "key_id": key,
        "model": "m",
        "currency": "USD",
        "requests": 1,
        "cancelled": 0,
        "failed": 0,
        "lost": 0,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": 0,
        "completion_tokens": 1,
        "cost": 1_500_000_000,
    }
    (store,) = store_of_servers(folder)
    with store.write() as connection:
        connection.execute(insert(schema.usage_daily).values(row))
    return day.isoformat()


async def test_a_holder_sees_what_is_left_and_no_other_key(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    alice = await make_key(gateway, "alice", rpm=10, tpm=5000, budget="10USD/month", tags=["prod"])
    bob = await make_key(gateway, "bob")
    for secret in (alice, bob, bob):
        assert (await say(gateway, secret))[0] == 200
    page = await as_holder(open_page, gateway, alice)
    holder = page.locator(".holder")
    await expect(holder).to_contain_text("alice")
    await expect(holder).to_contain_text("prod")
    await expect(holder).to_contain_text("9 of 10 left")
    await expect(holder).to_contain_text("of 10.00 USD/month spent")
    meter = page.get_by_role("meter", name="Requests a minute")
    assert await meter.evaluate("(one) => [one.value, one.max]") == [1, 10]
    await expect(page.locator(".tiles")).to_contain_text("Requests1")
    assert "bob" not in await page.content()
    await expect(page.get_by_role("button", name="Your key")).to_have_attribute(
        "aria-pressed", "true"
    )


async def test_the_key_that_the_view_is_given_is_the_chats_too(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    secret = await make_key(gateway, "alice")
    page = await as_holder(open_page, gateway, secret)
    await page.get_by_role("link", name="Chat").click()
    await expect(page.get_by_label("Model", exact=True)).to_contain_text("m · ready")
    await expect(page.get_by_role("form", name="This server asks")).to_have_count(0)


async def test_a_wrong_key_is_told_of_and_asked_for_again(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    await make_key(gateway, "alice")
    page = await open_page(gateway.url)
    await go_to(page, "Usage")
    alert = page.locator("main.view").get_by_role("alert")
    await expect(alert).to_have_count(0)  # none was given yet
    await use_key(page, "wrong")
    await expect(alert).to_contain_text("key")


async def test_a_server_without_keys_says_so(gateway: Gateway, open_page: OpenPage) -> None:
    assert (await say(gateway, "any"))[0] == 200
    page = await open_page(gateway.url)
    await go_to(page, "Usage")
    await expect(page.get_by_text("This server has no keys")).to_be_visible()
    await expect(page.locator(".tiles")).to_contain_text("Requests1")


async def test_a_server_without_a_store_says_so(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await start_gateway(engine, store={"url": "none"})
    page = await open_page(gateway.url)
    await go_to(page, "Usage")
    await expect(page.get_by_text("This server has no store")).to_be_visible()


async def test_the_operator_groups_filters_and_sorts(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    secrets = {}
    for name, uses, tags in (("alice", 3, ["prod"]), ("bob", 1, ["prod"]), ("carol", 2, [])):
        secrets[name] = await make_key(gateway, name, tags=tags)
        for _ in range(uses):
            assert (await say(gateway, secrets[name]))[0] == 200
    page = await as_operator(open_page, gateway)
    table = page.get_by_role("region", name="By key")
    first = table.get_by_role("rowheader").or_(table.locator("tbody td:first-child"))
    await expect(first).to_have_text(["alice", "carol", "bob"])
    heading = table.get_by_role("columnheader", name="Key")
    await heading.get_by_role("button").click()
    await expect(first).to_have_text(["alice", "bob", "carol"])
    await expect(heading).to_have_attribute("aria-sort", "ascending")
    await heading.get_by_role("button").click()
    await expect(first).to_have_text(["carol", "bob", "alice"])

    await page.get_by_role("combobox", name="And by").select_option("Model")
    both = page.get_by_role("region", name="By key and model")
    await expect(both.locator("tbody tr")).to_have_count(3)
    await page.get_by_label("Only this tag").fill("prod")
    await page.keyboard.press("Enter")
    await expect(both.locator("tbody tr")).to_have_count(2)
    await expect(page.locator(".tiles")).to_contain_text("Requests4")
    last = page.get_by_role("region", name="Last requests").locator("tbody tr")
    await expect(last).to_have_count(4)
    await page.get_by_label("Only this key").fill("alice")
    await page.keyboard.press("Enter")
    await expect(page.locator(".tiles")).to_contain_text("Requests3")
    await expect(last).to_have_count(3)
    assert (await say(gateway, secrets["alice"]))[0] == 200
    await page.get_by_role("button", name="Refresh").click()
    await expect(page.locator(".tiles")).to_contain_text("Requests4")
    await expect(last).to_have_count(4)
    await page.get_by_label("Only this key").fill("nobody")
    await page.keyboard.press("Enter")
    await expect(page.locator("main.view").get_by_role("alert").first).to_contain_text(
        "There is no key nobody"
    )


async def test_days_are_charted_and_told_in_words_and_as_a_table(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage, tmp_path: Path
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    assert (await say(gateway, await make_key(gateway, "alice")))[0] == 200
    day = used_before(tmp_path, "static-1", 5, 1_234_567)
    used_before(tmp_path, "static-1", 400, 9)
    page = await as_operator(open_page, gateway)
    await page.get_by_role("combobox", name="Days").select_option("Last 7 days")
    await expect(page.locator(".chart")).to_contain_text(
        f"on 2 days; the most on one: 1,234,568, on {day}"
    )
    await expect(page.locator(".chart canvas")).to_be_visible()
    await page.get_by_text("The days as a table").click()
    rows = page.get_by_role("region", name="Use by day").locator("tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.last).to_contain_text("1,234,567")
    await page.get_by_role("combobox", name="Show").select_option("Cost in USD")
    await expect(page.locator(".chart h4")).to_have_text("Cost in USD per day")
    await page.get_by_role("combobox", name="Days").select_option("Today")
    await expect(rows).to_have_count(1)


async def test_what_is_saved_as_csv_is_exact_and_no_formula(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage, tmp_path: Path
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    names = ["=1+1", "+1", "-1", "@SUM(A1)", 'with, "quotes"', "plain"]
    for name in names:
        assert (await say(gateway, await make_key(gateway, name)))[0] == 200
    page = await as_operator(open_page, gateway)
    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Save as CSV").click()
    download = await saved.value
    assert download.suggested_filename.startswith("usage-20")
    file = tmp_path / "usage.csv"
    await download.save_as(file)
    text = await asyncio.to_thread(file.read_text)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {row["name"] for row in rows} == {
        "'=1+1",
        "'+1",
        "'-1",
        "'@SUM(A1)",
        'with, "quotes"',
        "plain",
    }
    [used] = {
        (row["requests"], row["prompt_tokens"], row["completion_tokens"], row["cost_USD"])
        for row in rows
    }
    prompt, completion = int(used[1]), int(used[2])
    assert used[0] == "1"
    assert float(used[3]) == pytest.approx((prompt * 1 + completion * 10) / 1e6)


async def test_the_last_requests_are_paged_and_chosen_by_outcome(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    secret = await make_key(gateway, "alice")
    for _ in range(26):
        assert (await say(gateway, secret))[0] == 200
    engine.script = Script(tokens=("Hello", " world"), finish_reason="length")
    assert (await say(gateway, secret))[0] == 200
    page = await as_operator(open_page, gateway)
    rows = page.get_by_role("region", name="Last requests").locator("tbody tr")
    await expect(rows).to_have_count(25)
    await expect(rows.first).to_contain_text("cut by its limit")
    await expect(rows.first).to_contain_text("alice")
    await page.get_by_role("button", name="Show more").click()
    await expect(rows).to_have_count(27)
    await page.get_by_role("combobox", name="Outcome").select_option("cut by its limit")
    await expect(rows).to_have_count(1)
    await page.get_by_role("combobox", name="Outcome").select_option("failed")
    await expect(page.get_by_text("No request is such a one.")).to_be_visible()


@pytest.mark.parametrize("width", [360, 1400])
async def test_hostile_names_are_text_and_widen_nothing(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage, width: int
) -> None:
    gateway = await gateway_with_keys(start_gateway, engine)
    for name in HOSTILE:
        secret = await make_key(gateway, name, tags=[name[:50]], rpm=5)
        assert (await say(gateway, secret))[0] == 200
    size = {"width": width, "height": 800}
    for page in (
        await as_operator(open_page, gateway, viewport=size),
        await as_holder(open_page, gateway, secret, viewport=size),
    ):
        assert await page.evaluate(WIDER) <= 0
        main = page.locator("main.view")
        assert await main.evaluate("(node) => node.scrollWidth - node.clientWidth") <= 0
        assert await page.locator("img").count() == 0
        await expect(page.get_by_text(HOSTILE[2]).first).to_be_visible()


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
    secret = await make_key(gateway, "alice", tags=["prod"], rpm=10, budget="10USD/month")
    assert (await say(gateway, secret))[0] == 200
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = await open_page(gateway.url, **options)
    await go_to(page, "Usage")
    await expect(page.get_by_role("form", name="This server asks")).to_be_visible()
    assert await serious(page, axe) == []
    await use_key(page, secret)
    await page.get_by_text("The days as a table").click()
    assert await serious(page, axe) == []
    page = await as_operator(open_page, gateway, **options)
    await expect(page.get_by_role("region", name="Last requests")).to_be_visible()
    assert await serious(page, axe) == []
