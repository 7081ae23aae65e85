"""What the page shows of a cluster: in *Activity* machines, in *Models* each model's engines."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect

from reverie.testing import ScriptedEngine
from tests.browser.conftest import ADMIN_KEY, WIDER, OpenPage, open_view, serious
from tests.gateway.cluster_views import NO_ROOM, SECRET, a_view, link_to, machine, model
from tests.gateway.serving.fake_link import CLUSTER, FakeLink
from tests.harness import Gateway, StartGateway


@pytest.fixture
def link() -> FakeLink:
    return link_to(a_view())


@pytest.fixture
async def gateway(engine: ScriptedEngine, link: FakeLink, start_gateway: StartGateway) -> Gateway:
    key = {"REVERIE_ADMIN_KEY": ADMIN_KEY}
    return await start_gateway(engine, environ=key, cluster=CLUSTER, link=link)


def row(page: Page, caption: str, first: str) -> Any:
    table = page.get_by_role("table", name=caption)
    return table.get_by_role("row").filter(has=page.get_by_role("cell", name=first, exact=True))


async def test_machines_and_what_models_lack_are_seen_as_they_change(
    gateway: Gateway, link: FakeLink, open_page: OpenPage
) -> None:
    page = await open_view(open_page, gateway.url, "Activity")
    caption = "Machines of the cluster"
    for address, words in (
        ("10.0.0.2", ("up", "2 of 4", "0 of 2", "34 GB of 69 GB")),
        ("10.0.0.3", ("draining",)),
        ("10.0.0.4", ("lost",)),
    ):
        for word in words:
            await expect(row(page, caption, address)).to_contain_text(word)
    short = page.get_by_text(f"m has 2 of 4 engines: {NO_ROOM}")
    await expect(short).to_be_visible()
    await expect(row(page, "Engines that the models have", "m")).to_contain_text("2 of 4")

    link.tell(a_view(2, machines=[machine("10.0.0.9")], models=[model("m", wanted=2)]))
    await expect(row(page, caption, "10.0.0.9")).to_be_visible()
    await expect(row(page, caption, "10.0.0.4")).to_have_count(0)
    await expect(short).to_have_count(0)
    assert SECRET not in await page.content()


async def test_a_cluster_that_is_away_is_told_with_its_reason_until_it_is_back(
    gateway: Gateway, link: FakeLink, open_page: OpenPage
) -> None:
    page = await open_view(open_page, gateway.url, "Models")
    link.lose("The head at 10.0.0.1:6379 doesn't answer: run `reverie cluster head`.")
    notice = page.get_by_role("alert").filter(has_text="The cluster's manager hasn't answered")
    await expect(notice).to_contain_text("doesn't answer: run reverie cluster head. Engines go on")
    await expect(notice.locator("code")).to_have_text("reverie cluster head")
    engines = page.get_by_role("table", name="Engines of m")
    await expect(engines.get_by_role("row").nth(1)).to_contain_text("m/2")
    await expect(row(page, "Engines of m", "m/3")).to_contain_text("loads")
    await expect(row(page, "Engines of m", "m/3")).to_contain_text("10.0.0.3")
    await expect(row(page, "Engines of m", "m/4")).to_contain_text("is leaving")
    link.tell(a_view())
    await expect(notice).to_have_count(0)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
async def test_it_is_for_everyone(
    gateway: Gateway, link: FakeLink, open_page: OpenPage, axe: str, width: int, scheme: str
) -> None:
    link.lose("The head at 10.0.0.1:6379 doesn't answer.")
    look = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = await open_view(open_page, gateway.url, "Activity", **look)
    for view, caption in (("Activity", "Machines of the cluster"), ("Models", "Engines of m")):
        await page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        await expect(page.get_by_role("table", name=caption)).to_be_visible()
        assert await serious(page, axe) == []
        assert await page.evaluate(WIDER) <= 0
