"""What a prompt comes to: never less than its engine counts, and exactly that where it matters."""

from __future__ import annotations

import random
from typing import Any

import pytest

from reverie.errors import ContextLengthExceeded
from reverie.events import Usage
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.prompt_sizes import PromptSizes
from reverie.request import GenerateRequest
from tests.gateway.scheduling.fake_backend import FakeBackend

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "7" * 600}
SAID = {"role": "assistant", "content": "Seven."}
AGAIN = {"role": "user", "content": "And?"}


class Counting(FakeBackend):
    """A backend whose tokens have four bytes."""

    can_count = True

    def __init__(self, name: str = "a", **more: Any) -> None:
        super().__init__(name, **more)
        self.asked: list[GenerateRequest] = []
        self.silent = False

    async def count_prompt(self, request: GenerateRequest) -> int | None:
        self.asked.append(request)
        return None if self.silent else request.prompt_bound // 4


def sizes(*backends: FakeBackend) -> PromptSizes:
    return PromptSizes(Pool("m", backends, queue_size=1, queue_timeout=1))


def ask(*messages: dict[str, Any], **more: Any) -> GenerateRequest:
    return GenerateRequest(model="m", messages=list(messages or (ASKED,)), **more)


async def test_a_caller_with_limits_has_its_prompt_counted() -> None:
    backend, request = Counting(), ask()
    measured = await sizes(backend).measure(request, limited=True)
    assert (measured.prompt_size, measured.prompt_counted) == (request.prompt_bound // 4, True)
    assert measured.size == measured.prompt_size + request.max_tokens


async def test_without_limits_nobody_is_asked() -> None:
    backend = Counting()
    measured = await sizes(backend).measure(ask(), limited=False)
    assert (measured.prompt_size, backend.asked) == (measured.prompt_bound, [])


async def test_a_request_that_is_large_for_its_engines_memory_is_counted_for_everybody() -> None:
    backend = Counting(slots=4, capacity=1024)
    assert (await sizes(backend).measure(ask(), limited=False)).prompt_counted
    small = await sizes(backend).measure(ask(AGAIN, max_tokens=8), limited=False)
    assert not small.prompt_counted


@pytest.mark.parametrize("broken", ["silent", "not ready", "of another kind"])
async def test_where_no_engine_can_say_the_bound_holds(broken: str) -> None:
    backend = Counting(ready=broken != "not ready")
    backend.silent = broken == "silent"
    backend.can_count = broken != "of another kind"  # type: ignore[misc]
    measured = await sizes(backend).measure(ask(), limited=True)
    assert (measured.prompt_size, measured.prompt_counted) == (measured.prompt_bound, False)


async def test_one_backend_that_can_count_is_enough() -> None:
    assert (await sizes(FakeBackend("b"), Counting()).measure(ask(), limited=True)).prompt_counted


async def test_the_same_prompt_is_counted_once() -> None:
    backend = Counting()
    measuring = sizes(backend)
    first = await measuring.measure(ask(), limited=True)
    second = await measuring.measure(ask(max_tokens=1), limited=True)
    assert (first.prompt_size, len(backend.asked)) == (second.prompt_size, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"messages": [{**ASKED, "name": "Ann"}]},
    ],
)
async def test_all_that_the_prompt_is_rendered_from_makes_another(other: dict[str, Any]) -> None:
    backend = Counting()
    measuring = sizes(backend)
    await measuring.measure(ask(), limited=True)
    changed = GenerateRequest(**{"model": "m", "messages": [ASKED], **other})
    await measuring.measure(changed, limited=True)
    assert len(backend.asked) == 2


async def test_of_a_later_turn_only_what_is_new_is_bounded() -> None:
    backend = Counting()
    measuring = sizes(backend)
    first = await measuring.measure(ask(SYSTEM, ASKED), limited=True)
    later = await measuring.measure(ask(SYSTEM, ASKED, SAID, AGAIN), limited=True)
    new = len("Seven." + "And?") + 2 * 8
    assert (later.prompt_size, later.prompt_counted) == (first.prompt_size + new, False)
    assert len(backend.asked) == 1


async def test_a_later_turn_with_much_that_is_new_is_counted() -> None:
    backend = Counting()
    measuring = sizes(backend)
    await measuring.measure(ask(SYSTEM, ASKED), limited=True)
    later = await measuring.measure(ask(SYSTEM, ASKED, SAID, ASKED), limited=True)
    assert later.prompt_counted
    assert (await measuring.measure(ask(AGAIN), limited=True, exactly=True)).prompt_counted


async def test_what_an_engine_counted_with_its_answer_is_remembered() -> None:
    measuring = sizes(FakeBackend("a"))
    first = await measuring.measure(ask(), limited=True)
    measuring.learn(first, Usage(150, 5))
    assert (await measuring.measure(ask(), limited=True)).prompt_size == 150
    later = await measuring.measure(ask(ASKED, SAID, AGAIN), limited=True)
    assert later.prompt_size == 150 + len("Seven." + "And?") + 2 * 8


@pytest.mark.parametrize("usage", [Usage(0, 5), Usage(150, 5, estimated=True)])
async def test_what_no_engine_counted_is_not(usage: Usage) -> None:
    measuring = sizes(FakeBackend("a"))
    first = await measuring.measure(ask(), limited=True)
    measuring.learn(first, usage)
    assert (await measuring.measure(ask(), limited=True)).prompt_size == first.prompt_bound


async def test_a_template_that_says_more_than_the_bound_allows_for_raises_it() -> None:
    measuring = sizes(FakeBackend("a"))
    measuring.learn(await measuring.measure(ask(AGAIN), limited=False), Usage(1000, 5))
    request = ask(SYSTEM, AGAIN)
    measured = await measuring.measure(request, limited=False)
    above = 1000 - ask(AGAIN).prompt_bound
    assert measured.prompt_size == request.prompt_bound + above


async def test_a_prompt_that_is_known_to_fit_no_context_is_refused_at_once() -> None:
    backend = Counting()
    backend.context = 100
    with pytest.raises(ContextLengthExceeded, match=r"is 100 tokens.*in 160 tokens"):
        await sizes(backend).measure(ask(), limited=True)
    other = FakeBackend("b")  # whose context nobody knows
    assert (await sizes(backend, other).measure(ask(), limited=True)).prompt_counted


async def test_a_conversation_is_never_sized_below_what_its_turns_come_to() -> None:
    """Whatever the turns, and however many of them the gateway has seen."""
    chance = random.Random(7)

    def tokens(messages: list[dict[str, Any]]) -> int:
        return 20 + sum(5 + len(message["content"]) // 2 for message in messages)

    class Engine(Counting):
        async def count_prompt(self, request: GenerateRequest) -> int | None:
            return tokens(request.messages)

    for _ in range(50):
        measuring = sizes(Engine())
        messages: list[dict[str, Any]] = []
        for _ in range(20):
            role = chance.choice(["user", "assistant"])
            messages.append({"role": role, "content": "x" * chance.choice([1, 30, 500])})
            if chance.random() < 0.6:
                request = await measuring.measure(ask(*messages), limited=True)
                assert tokens(messages) <= request.prompt_size <= request.prompt_bound


# Images -------------------------------------------------------------------------------------


def shown(url: str = "data:image/png;base64,AAAA") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


async def test_an_image_is_never_counted_by_a_route_that_takes_it_for_a_word() -> None:
    backend = Counting()
    measured = await sizes(backend).measure(ask(shown()), limited=True, exactly=True)
    assert (measured.prompt_counted, backend.asked) == (False, [])
    assert measured.prompt_size == measured.prompt_bound


async def test_an_image_that_came_to_more_raises_the_bound_of_images_alone() -> None:
    measuring = sizes(Counting())
    first = await measuring.measure(ask(shown(), shown()), limited=True)
    measuring.learn(first, Usage(first.prompt_bound + 20_000, 1))
    other = await measuring.measure(ask(shown("data:image/png;base64,BBBB")), limited=True)
    assert other.prompt_size == other.prompt_bound + 10_000
    text = await measuring.measure(ask(), limited=False)
    assert text.prompt_size == text.prompt_bound


async def test_what_an_image_came_to_is_remembered_unless_only_its_address_is_known() -> None:
    for url, remembered in (("data:image/png;base64,AAAA", True), ("https://x/a.png", False)):
        measuring = sizes(Counting())
        measuring.learn(await measuring.measure(ask(shown(url)), limited=True), Usage(40, 1))
        again = await measuring.measure(ask(shown(url)), limited=True)
        assert again.prompt_counted is remembered
        assert (again.prompt_size == 40) is remembered
