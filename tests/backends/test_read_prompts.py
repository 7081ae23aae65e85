"""How much of a prompt is new to an engine."""

from __future__ import annotations

from collections.abc import Callable

from reverie.backends.read_prompts import ReadPrompts
from reverie.request import GenerateRequest

Ask = Callable[..., GenerateRequest]

FIRST = [{"role": "user", "content": "Read this. " * 300}]
SECOND = [
    *FIRST,
    {"role": "assistant", "content": "I have."},
    {"role": "user", "content": "And now?"},
]


def test_of_a_second_turn_only_its_new_messages_are_left_to_read(ask: Ask) -> None:
    read, first, second = ReadPrompts(), ask(messages=FIRST), ask(messages=SECOND)
    assert read.tokens_to_read(second) == second.prompt_estimate
    read.remember(first)
    assert read.tokens_to_read(second) == second.prompt_estimate - first.prompt_estimate


def test_the_same_messages_with_other_tools_are_another_prompt(ask: Ask) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    read, second = ReadPrompts(), ask(messages=SECOND, tools=[tool])
    read.remember(ask(messages=FIRST))
    assert read.tokens_to_read(second) == second.prompt_estimate


def test_those_read_longest_ago_are_forgotten(ask: Ask) -> None:
    read, second = ReadPrompts(), ask(messages=SECOND)
    read.remember(ask(messages=FIRST))
    for number in range(256):
        read.remember(ask(messages=[{"role": "user", "content": f"{number} " * 900}]))
    assert read.tokens_to_read(second) == second.prompt_estimate
