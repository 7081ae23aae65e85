"""Chatting on the page, over scripted engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from reverie.testing import Script, ScriptedEngine, ToolCall
from tests.browser.conftest import OpenPage, ask
from tests.harness import Gateway, StartGateway


async def test_an_answer_is_streamed_and_measured(gateway: Gateway, open_page: OpenPage) -> None:
    page = await open_page(gateway.url)
    await ask(page, "Hi")
    answer = page.get_by_role("article").last
    await expect(answer.locator(".text")).to_have_text("Hello world")
    await expect(answer.locator(".figures")).to_contain_text("2 tokens · prompt 10 · first after")
    await expect(page.get_by_role("status").first).to_have_text("The answer is complete.")


async def test_a_request_carries_what_the_controls_say(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url, viewport={"width": 1400, "height": 1000})
    await page.get_by_label("temperature").fill("0")
    await page.get_by_label("max_tokens").fill("7")
    await page.get_by_text("More", exact=True).click()
    await page.get_by_label("seed").fill("42")
    await page.get_by_label("stop", exact=True).fill("END\nFIN")
    await page.get_by_label("System prompt").fill("Be kind.")
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_be_visible()
    body = engine.requests[-1].body
    assert body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0, 7, 42)


async def test_an_answer_in_one_piece_is_shown(gateway: Gateway, open_page: OpenPage) -> None:
    page = await open_page(gateway.url, viewport={"width": 1400, "height": 1000})
    await page.get_by_label("stream").uncheck()
    await ask(page, "Hi")
    await expect(page.locator(".assistant .text")).to_have_text("Hello world")


async def test_stop_ends_the_answer_here_and_at_the_engine(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    page = await open_page(gateway.url)
    await ask(page, "Hi")
    await expect(page.locator(".assistant .text")).to_have_text("Hello")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".figures")).to_contain_text("stopped")
    await engine.wait_for(lambda e: not e.stalled, 30)
    await expect(page.get_by_role("button", name="Send")).to_be_visible()
    await expect(page.locator(".assistant .error")).to_have_count(0)


async def test_a_message_is_edited_and_an_answer_written_again(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(tokens=lambda body: (body["messages"][-1]["content"], "!"))
    page = await open_page(gateway.url)
    await ask(page, "One")
    await expect(page.locator(".assistant .text")).to_have_text("One!")
    await page.get_by_role("button", name="Edit").click()
    field = page.get_by_label("Edit your message")
    await expect(field).to_be_focused()
    await expect(field).to_have_value("One")
    await field.fill("Two")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator(".assistant .text")).to_have_text("Two!")
    await expect(page.get_by_role("article")).to_have_count(2)
    before = engine.generations
    await page.get_by_role("button", name="Regenerate").click()
    await engine.wait_for(lambda e: e.generations == before + 1, 30)
    await expect(page.get_by_role("article")).to_have_count(2)


async def test_conversations_stay_in_the_browser_and_leave_as_a_file(
    gateway: Gateway, open_page: OpenPage, tmp_path: Path
) -> None:
    page = await open_page(gateway.url, viewport={"width": 1400, "height": 1000})
    await ask(page, "The first")
    await expect(page.locator(".figures")).to_be_visible()
    await page.get_by_role("button", name="New chat").click()
    await expect(page.get_by_role("article")).to_have_count(0)
    await ask(page, "The second")
    await expect(page.locator(".figures")).to_be_visible()
    await page.reload()
    await page.get_by_role("button", name="The first", exact=True).click()
    await expect(page.locator(".assistant .text")).to_have_text("Hello world")

    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    await (await download.value).save_as(file)
    assert len(json.loads(file.read_text())["conversations"]) >= 2

    other = await open_page(gateway.url, viewport={"width": 1400, "height": 1000})
    await other.get_by_label("Import a file").set_input_files(file)
    await other.get_by_role("button", name="The second", exact=True).click()
    await expect(other.locator(".assistant .text")).to_have_text("Hello world")
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"format": "another"}')
    await other.get_by_label("Import a file").set_input_files(wrong)
    await expect(other.get_by_text("holds no conversations")).to_be_visible()


async def test_reasoning_is_folded_and_tool_calls_are_shown(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(
        reasoning=("Let me ", "think."),
        tokens=("So:",),
        tool_calls=(ToolCall(name="look_up", arguments=('{"a":', " 1}")),),
    )
    page = await open_page(gateway.url)
    await ask(page, "Hi")
    thought = page.get_by_text("Let me think.")
    await expect(page.locator(".figures")).to_be_visible()
    await expect(thought).to_be_hidden()
    await page.get_by_text("Reasoning", exact=True).click()
    await expect(thought).to_be_visible()
    call = page.get_by_role("region", name="Calls look_up")
    await expect(call.locator("pre")).to_have_text('{\n  "a": 1\n}')


@pytest.mark.parametrize("streamed", [True, False])
async def test_several_tool_calls_are_each_shown_whole(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage, streamed: bool
) -> None:
    engine.script = Script(
        tokens=(),
        tool_calls=(
            ToolCall(name="look_up", arguments=('{"word"', ': "se', 'a"}'), id="call_1"),
            ToolCall(name="look_up", arguments=('{"word": ', '"sky"}'), id="call_2"),
            ToolCall(name="now", arguments=("{", "}"), id="call_3"),
        ),
    )
    page = await open_page(gateway.url, viewport={"width": 1400, "height": 1000})
    if not streamed:
        await page.get_by_label("stream").uncheck()
    await ask(page, "Hi")
    await expect(page.locator(".figures")).to_be_visible()
    calls = page.get_by_role("region", name="Calls ")
    await expect(calls.locator("pre")).to_have_text(
        ['{\n  "word": "sea"\n}', '{\n  "word": "sky"\n}', "{}"]
    )
    await expect(calls.locator("p")).to_have_text(["Calls look_up", "Calls look_up", "Calls now"])


async def test_an_empty_conversation_offers_a_first_question(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(gateway.url)
    await page.get_by_role("button", name="What is photosynthesis?").click()
    await expect(page.get_by_label("Your message")).to_be_focused()
    assert engine.generations == 0  # it can be changed before it is sent
    await page.keyboard.press("Enter")
    await expect(page.locator(".user .text")).to_have_text("What is photosynthesis?")
    await expect(page.get_by_role("region", name="To begin with")).to_have_count(0)


async def test_a_wrong_key_is_refused_in_a_sentence_and_the_right_one_goes_on(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_API_KEYS": "right"})
    page = await open_page(gateway.url)
    asked = page.get_by_role("form", name="This server asks for an API key")
    field = asked.get_by_label("API key")
    await expect(field).to_be_focused()
    await expect(asked.get_by_role("alert")).to_have_count(0)  # none was given yet
    await field.fill("wrong")
    await page.keyboard.press("Enter")
    await expect(asked.get_by_role("alert")).to_contain_text("API key")
    await expect(field).to_have_value("")
    await field.fill("right")
    await asked.get_by_role("button", name="Use this key").click()
    await expect(asked).to_have_count(0)
    await ask(page, "Hi")
    await expect(page.locator(".assistant .text")).to_have_text("Hello world")
    assert await page.evaluate("JSON.stringify(localStorage).includes('right')") is False
    another_tab = await page.context.new_page()
    await another_tab.goto(gateway.url)
    await expect(another_tab.get_by_role("form", name="This server asks")).to_be_visible()


async def test_an_error_is_the_servers_sentence_and_can_be_tried_again(
    gateway: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    engine.script = Script(status=400, error={"message": "wrong order"})
    page = await open_page(gateway.url)
    await ask(page, "Hi")
    await expect(page.locator(".assistant .error")).to_contain_text("The engine refused")
    engine.script = Script(tokens=("Better.",))
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator(".assistant .text")).to_have_text("Better.")
    await expect(page.locator(".assistant .error")).to_have_count(0)
