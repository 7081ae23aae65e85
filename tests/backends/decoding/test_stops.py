"""An answer ends at the first of its stop strings, wherever the engine cuts its pieces."""

from __future__ import annotations

import random

import pytest

from reverie.backends.decoding.stops import StopWatch
from reverie.events import Delta, Event, Finish, Prompt, ToolCallDelta, Usage

END: list[Event] = [Finish("stop"), Usage(3, 9)]


def run(stops: list[str], *batches: list[Event]) -> tuple[str, list[Event], bool]:
    """The text that is passed on, what else is, and whether a stop string was met."""
    watch = StopWatch(stops)
    text, others = "", []
    for batch in batches:
        for event in watch.accept(batch):
            if isinstance(event, Delta) and event.text:
                text += event.text
            else:
                others.append(event)
        if watch.met:
            break
    return text, others, watch.met


@pytest.mark.parametrize("seed", range(200))
def test_the_text_ends_where_the_first_stop_string_begins(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices("ab\n", k=40))
    stops = ["".join(chance.choices("ab\n", k=chance.randint(1, 4))) for _ in range(3)]
    pieces, rest = [], text
    while rest:
        size = chance.randint(1, 5)
        pieces.append([Delta(rest[:size])])
        rest = rest[size:]
    passed, others, met = run(stops, *pieces, END)
    # The first piece after which a stop string is there decides, as with an engine's own.
    seen = ""
    for piece in pieces:
        seen += piece[0].text
        found = [(seen.find(stop), -len(stop), stop) for stop in stops if stop in seen]
        if found:
            at, _, stop = min(found)
            assert (passed, met) == (text[:at], True)
            assert others[0] == Finish("stop", stop)
            return
    assert (passed, others, met) == (text, END, False)


def test_what_may_begin_a_stop_string_is_held_until_more_is_known() -> None:
    watch = StopWatch(["</end>"])
    assert watch.accept([Delta("Hi </e")]) == [Delta("Hi ")]
    assert watch.accept([Delta("x")]) == [Delta("</e", tokens=0), Delta("x")]
    assert watch.accept([Delta("</en")]) == []
    assert watch.accept(END) == [Delta("</en"), *END]


def test_the_usage_counts_what_was_generated_to_the_stop_string() -> None:
    _, others, met = run(["b"], [Prompt(7, 2), Delta("a", tokens=2)], [Delta("b")], END)
    assert met
    assert others == [Prompt(7, 2), Finish("stop", "b"), Usage(7, 3, 2)]
    _, others, _ = run(["b"], [Delta("b")])
    assert others == [Finish("stop", "b"), Usage(0, 1, estimated=True)]


def test_a_call_ends_the_text_before_it() -> None:
    call = Delta(tool_calls=(ToolCallDelta(0, "c", "f"),))
    watch = StopWatch(["stop"])
    assert watch.accept([Delta("st"), call, Delta("op")]) == [Delta("st"), call, Delta("op")]
