"""One answer over several calls, told in events."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.events import Delta, Event, Finish, Prompt, ToolCallDelta, Usage
from reverie.gateway.continuation import Continuation, SeamStops
from reverie.request import GenerateRequest

GUESS = 32
"""Tokens that a prompt without messages is taken for."""


def answer(**fields: Any) -> Continuation:
    given = {"temperature": 0, "max_tokens": 20, **fields}
    return Continuation(GenerateRequest(model="m", messages=[], **given))


def deltas(*texts: str) -> list[Event]:
    return [Delta(text) for text in texts]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def end(prompt: int, completion: int, cached: int = 0, **more: Any) -> list[Event]:
    return [Finish("stop"), Usage(prompt, completion, cached, **more)]


def test_an_answer_that_is_never_cut_is_sent_as_it_is() -> None:
    whole = answer()
    batch = [Prompt(7), *deltas("a", " b"), *end(7, 3)]
    assert whole.accept(batch) is batch


def test_the_next_backend_is_given_the_text_and_asked_for_what_is_missing() -> None:
    cut = answer(stop=("x",))
    cut.accept(deltas("Hello", " there"))
    cut.resume()
    assert cut.request.answer_so_far == "Hello there"
    assert cut.request.max_tokens == 18
    assert cut.request.stop == ("x",)


def test_spaces_at_the_cut_are_generated_again_and_sent_once() -> None:
    """A token of spaces is another one, depending on what follows it."""
    cut = answer()
    cut.accept(deltas("Hello", "\n", "\n"))
    cut.resume()
    assert (cut.request.answer_so_far, cut.request.max_tokens) == ("Hello", 19)
    assert cut.accept(deltas("\n")) == []
    assert text_of(cut.accept(deltas("\n", "you"))) == "you"
    assert cut.tokens == 4
    cut.resume()
    assert (cut.request.answer_so_far, cut.request.max_tokens) == ("Hello\n\nyou", 16)


def test_spaces_that_come_again_in_other_pieces_are_still_sent_once() -> None:
    cut = answer()
    cut.accept(deltas("Hello", "\n", "\n "))
    cut.resume()
    assert text_of(cut.accept(deltas("\n\n", " you"))) == "you"


def test_an_engine_that_goes_another_way_after_the_spaces_is_followed() -> None:
    cut = answer()
    cut.accept(deltas("Hello", "\n", "\n"))
    cut.resume()
    assert text_of(cut.accept(deltas("\n", " you"))) == " you"


def test_an_answer_of_spaces_alone_begins_anew_without_them() -> None:
    cut = answer()
    cut.accept(deltas("\n"))
    cut.resume()
    assert (cut.request.answer_so_far, cut.request.max_tokens) == ("", 20)
    assert text_of(cut.accept(deltas("\n", "you"))) == "you"


def test_a_sampled_answer_is_continued_after_its_spaces() -> None:
    """Asked again, it might say something else."""
    cut = answer(temperature=0.7)
    cut.accept(deltas("Hello", "\n"))
    cut.resume()
    assert (cut.request.answer_so_far, cut.request.max_tokens) == ("Hello\n", 18)
    assert text_of(cut.accept(deltas("\n", "you"))) == "\nyou"


def test_a_cut_at_any_piece_gives_the_usage_of_the_whole() -> None:
    texts = ["One", " two", "\n", "\n", " three", " ", "four"]
    for prompt in ([], [Prompt(11, 4)]):
        for first in range(1, len(texts)):
            for second in range(first, len(texts)):
                cut = answer(temperature=0)
                handed = cut.accept([*prompt, *deltas(*texts[:first])])
                cut.resume()
                begun = 20 - cut.request.max_tokens
                handed += cut.accept([Prompt(11 + begun, 9), *deltas(*texts[begun:second])])
                cut.resume()
                begun = 20 - cut.request.max_tokens
                rest = deltas(*texts[begun:])
                handed += cut.accept([*rest, *end(11 + begun, len(rest) + 1, 4)])
                assert text_of(handed) == "".join(texts)
                usage = handed[-1]
                assert isinstance(usage, Usage)
                assert (usage.prompt_tokens, usage.completion_tokens) == (11, 8)
                assert not usage.estimated
                if prompt:
                    assert usage.cached_tokens == 4


def test_backends_that_write_the_same_prompt_differently_dont_add_to_the_answer() -> None:
    cut = answer()
    cut.accept([Prompt(10), *deltas("a", " b")])
    cut.resume()
    assert cut.accept([*deltas(" c"), *end(10 + 30 + 2, 1)])[-1] == Usage(10, 3)


def test_an_engine_that_reports_nothing_leaves_an_estimate() -> None:
    for prompt, told in (([], GUESS), ([Prompt(7)], 7)):
        cut = answer()
        cut.accept([*prompt, *deltas("a", " b")])
        cut.resume()
        last = cut.accept([*deltas(" c"), Finish("stop"), Usage(0, 1, estimated=True)])[-1]
        assert last == Usage(told, 3, estimated=True)


def test_a_prompt_that_no_engine_told_is_guessed() -> None:
    whole = answer()
    last = whole.accept([*deltas("a"), Finish("stop"), Usage(0, 1, estimated=True)])[-1]
    assert last == Usage(GUESS, 1, estimated=True)


def test_the_size_of_the_prompt_may_become_known_after_a_seam() -> None:
    cut = answer(max_tokens=2)
    cut.accept(deltas("a"))
    cut.resume()
    assert Prompt(10) in cut.accept([Prompt(11), *deltas(" b")])
    assert cut.reached_max_tokens
    assert cut.end() == [Finish("length"), Usage(10, 2)]


def test_a_stop_string_across_the_seam_ends_the_answer_before_it() -> None:
    cut = answer(stop=("END",))
    cut.accept([Prompt(5), *deltas("So", " E")])
    cut.resume()
    assert cut.accept(deltas("N")) == []
    assert cut.accept(deltas("D", " never")) == [Finish("stop", "END"), Usage(5, 4)]


def test_text_that_turns_out_to_be_no_stop_string_is_sent_in_order() -> None:
    cut = answer(stop=("END",))
    cut.accept(deltas("So", " E"))
    cut.resume()
    assert cut.accept(deltas("N")) == []
    assert text_of(cut.accept(deltas("d", "s"))) == "Nds"


def test_a_tool_call_is_not_held_for_a_stop_string_that_began_before_it() -> None:
    cut = answer(stop=("END",))
    cut.accept(deltas("So", " E"))
    cut.resume()
    call = Delta(tool_calls=(ToolCallDelta(0, "i", "f"),))
    assert cut.accept([*deltas("N"), call]) == [*deltas("N"), call]


def test_a_part_of_a_stop_string_is_sent_if_the_answer_ends_there() -> None:
    cut = answer(stop=("END",))
    cut.accept(deltas("So", " E"))
    cut.resume()
    assert text_of(cut.accept([*deltas("N"), *end(7, 1)])) == "N"


def test_text_that_was_held_at_a_second_cut_is_asked_for_again() -> None:
    cut = answer(stop=("END",))
    cut.accept(deltas("So", " E"))
    cut.resume()
    cut.accept(deltas("N"))
    cut.resume()
    assert cut.request.answer_so_far == "So E"
    assert cut.accept([*deltas("N", "D"), *end(7, 2)])[0] == Finish("stop", "END")


def test_all_of_max_tokens_needs_only_its_end() -> None:
    cut = answer(max_tokens=2)
    cut.accept([Prompt(5, 3), *deltas("a", "b")])
    assert cut.reached_max_tokens
    assert cut.end() == [Finish("length"), Usage(5, 2, 3)]
    cut = answer(max_tokens=1)
    cut.accept(deltas("a"))
    assert cut.end() == [Finish("length"), Usage(GUESS, 1, estimated=True)]


FORCED = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}


@pytest.mark.parametrize(
    ("fields", "sent", "reason"),
    [
        ({}, Delta("a", tool_calls=(ToolCallDelta(0, "id", "f"),)), "a tool call was sent"),
        ({}, Delta(reasoning="hm"), "reasoning was sent"),
        (FORCED, Delta("a"), "a tool call is required"),
        ({"response_format": {"type": "json_object"}}, Delta("a"), "the output is constrained"),
        ({"logprobs": True}, Delta("a"), "log-probabilities were asked for"),
        ({"seed": 7, "temperature": 0.1}, Delta("a"), "the seed is pinned"),
        ({"max_tokens": 1}, Delta("a"), "it is longer than max_tokens"),
    ],
)
def test_answers_that_no_engine_can_continue(
    fields: dict[str, Any], sent: Delta, reason: str
) -> None:
    cut = answer(**fields)
    cut.accept([sent, Delta("b")])
    assert cut.why_not_resumable() == reason


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 7},
        {"temperature": 1.0},
        {"response_format": {"type": "text"}},
        {**FORCED, "tool_choice": "auto"},
        {**FORCED, "tool_choice": "none"},
    ],
)
def test_plain_text_can_be_continued(fields: dict[str, Any]) -> None:
    cut = answer(**fields)
    cut.accept(deltas("a"))
    assert cut.why_not_resumable() is None


# Stop strings across the seam ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "verdicts"),
    [
        ("Hello E", ["ND"], ["stop"]),
        ("Hello E", ["N", "D and more"], ["hold", "stop"]),
        ("Hello E", ["N", "", "D"], ["hold", "hold", "stop"]),
        ("Hello E", ["N", "dless"], ["hold", "pass"]),
        ("Hello EN", ["d"], ["pass"]),
        ("EE", ["ND"], ["stop"]),
    ],
)
def test_a_stop_string_across_the_seam_is_met_at_its_last_character(
    before: str, after: list[str], verdicts: list[str]
) -> None:
    stops = SeamStops(["END"], before)
    assert stops.possible
    assert [stops.feed(text) for text in after] == verdicts


@pytest.mark.parametrize("before", ["Hello", "", "the END", "E N"])
def test_text_that_begins_no_stop_string_is_never_held_back(before: str) -> None:
    assert not SeamStops(["END"], before).possible


def test_of_several_stop_strings_any_that_may_have_begun_is_looked_for() -> None:
    stops = SeamStops(["aab", "abX", "b"], "caa")
    assert stops.possible
    assert stops.feed("b") == "stop"
    other = SeamStops(["aab", "abX"], "ca")
    assert other.feed("b") == "hold"
    assert other.feed("Y") == "pass"
