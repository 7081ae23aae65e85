"""With a real engine: long prompts hold nobody up, and what was read isn't read again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.faults.test_real_engine import generated, start, until_slots
from tests.harness import Gateway, StartGateway, chat

pytestmark = pytest.mark.real

FACTS = " ".join(f"Room {number} is {number * 7 % 90} feet long." for number in range(60))


async def test_a_short_prompt_is_answered_while_a_long_one_is_read(
    start_gateway: StartGateway,
) -> None:
    gateway = await start(start_gateway, cache_mib=256, threads=1)
    ended: list[str] = []

    async def ask(name: str, prompt: str) -> dict[str, Any]:
        status, answer, _ = await gateway.post(chat(prompt, max_tokens=4, temperature=0))
        assert status == 200, answer
        ended.append(name)
        usage: dict[str, Any] = answer["usage"]
        return usage

    long = asyncio.create_task(ask("long", FACTS + " Which room is the longest?"))
    await until_slots(gateway, 1)
    await ask("short", "What is the sea?")
    usage = await long
    assert ended == ["short", "long"]
    assert usage["prompt_tokens"] > 500
    # … and wasn't in the cache when the request came.
    assert usage["prompt_tokens_details"]["cached_tokens"] < 50
    # What was read before it gave way was read once …
    assert (await generated(gateway))["prompt_tokens"] < 1.5 * usage["prompt_tokens"]


async def test_second_turns_of_more_chats_than_slots_read_their_new_tokens_alone(
    start_gateway: StartGateway,
) -> None:
    gateway = await start(start_gateway, cache_mib=256)
    chats = [[{"role": "user", "content": f"{n}. {FACTS[: 400 + n]}"}] for n in range(3)]
    for messages in chats:
        answer = await say(gateway, messages)
        messages += [answer, {"role": "user", "content": "And the shortest?"}]
    before = (await generated(gateway))["prompt_tokens"]
    for messages in chats:
        await say(gateway, messages)
    read = (await generated(gateway))["prompt_tokens"] - before
    assert read < 40 * len(chats)  # the question, and the marks around it


async def say(gateway: Gateway, messages: list[dict[str, Any]]) -> dict[str, Any]:
    asked = {"messages": messages, "max_tokens": 4, "temperature": 0}
    status, answer, _ = await gateway.post(asked, "/v1/chat/completions")
    assert status == 200, answer
    message: dict[str, Any] = answer["choices"][0]["message"]
    return message
