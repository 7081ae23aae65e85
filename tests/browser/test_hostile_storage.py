"""What a browser kept may be anything: the page opens all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page, expect

from reverie.testing import ScriptedEngine
from tests.browser.conftest import OpenPage, ask
from tests.harness import Gateway

WIDE = {"width": 1400, "height": 900}


async def reopened_with(page: Page, **entries: str) -> None:
    await page.evaluate("(entries) => Object.assign(localStorage, entries)", entries)
    await page.reload()
    await expect(page.get_by_label("Your message")).to_be_visible()


@pytest.mark.parametrize(
    "kept",
    [
        {"version": 2},
        {"version": 2, "values": None},
        {"version": 2, "values": {"stop": 5, "temperature": {}, "stream": "no", "seed": [1]}},
        {"stop": ["a"], "max_tokens": "9"},
        "text",
        7,
        [],
    ],
    ids=str,
)
async def test_settings_of_a_wrong_shape_count_as_untouched(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, kept: Any
) -> None:
    page = await open_page(gateway.url, viewport=WIDE)
    await reopened_with(page, **{"reverie.settings": json.dumps(kept)})
    await expect(page.get_by_label("stream")).to_be_checked()
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_be_visible()
    body = engine.requests[-1].body
    assert not {"stop", "seed"} & set(body)


async def test_conversations_of_a_wrong_shape_are_left_out(
    gateway: Gateway, open_page: OpenPage
) -> None:
    good = {"id": "good", "messages": [{"role": "user", "content": "Still here"}]}
    odd: dict[str, Any] = {
        "number": 5,
        "list": [],
        "no-list": {"id": "a", "messages": {}},
        "no-text": {"id": "b", "messages": [{"role": "user", "content": {}}]},
        "system": {"id": "c", "messages": [{"role": "system", "content": "x"}]},
        "null": {"id": "d", "messages": [None]},
        "good": good,
    }
    entries = {f"reverie.conversation.{name}": json.dumps(one) for name, one in odd.items()}
    page = await open_page(gateway.url, viewport=WIDE)
    await reopened_with(page, **entries, **{"reverie.conversation.cut": '{"id":'})
    await expect(page.locator(".conversations .title")).to_have_text(
        ["New conversation", "Still here"]
    )


async def test_a_hash_that_names_no_view_shows_the_chat(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url)
    for name in ("__proto__", "constructor", "toString", "<img src=x onerror=alert(1)>", "%00"):
        await page.evaluate("(name) => { location.hash = `/${name}`; }", name)
        await expect(page.get_by_label("Your message")).to_be_visible()
        await page.goto(f"{gateway.url}/#/{name}")
        await page.reload()
        await expect(page.get_by_label("Your message")).to_be_visible()


async def test_an_import_that_finds_no_room_says_so(gateway: Gateway, open_page: OpenPage) -> None:
    page = await open_page(gateway.url, viewport=WIDE)
    messages = [{"role": "user", "content": "Large " + "x" * 6_000_000}]
    file = {
        "format": "reverie-conversations",
        "version": 1,
        "conversations": [{"id": "a", "messages": messages}],
    }
    await page.get_by_label("Import a file").set_input_files(
        {"name": "c.json", "mimeType": "application/json", "buffer": json.dumps(file).encode()}
    )
    await expect(page.get_by_role("alert").filter(has_text="no room left")).to_be_visible()


async def test_a_page_in_place_of_an_answer_is_told_at_once(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url)
    requests: list[str] = []

    async def sign_in(route: Any) -> None:
        requests.append(route.request.url)
        await route.fulfill(status=200, content_type="text/html", body="<h1>Sign in</h1>")

    await page.route("**/v1/chat/completions", sign_in)
    await ask(page, "Hi")
    await expect(page.locator(".message .error")).to_contain_text("Something before the server")
    assert len(requests) == 1


async def test_an_answer_that_is_lost_again_and_again_is_given_up(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url)
    requests: list[str] = []

    async def lose(route: Any) -> None:
        requests.append(route.request.url)
        error = {"code": "answer_not_kept", "message": "This answer isn't kept."}
        await route.fulfill(status=409, json={"error": error})

    await page.route("**/v1/chat/completions", lose)
    await ask(page, "Hi")
    await expect(page.locator(".message .error")).to_have_text("This answer isn't kept.")
    assert len(requests) == 2


async def test_without_a_database_the_page_answers_all_the_same(
    gateway: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url)
    await page.add_init_script(
        "Object.defineProperty(window, 'indexedDB', { get() { throw new Error('off'); } });"
    )
    await page.reload()
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_be_visible()
