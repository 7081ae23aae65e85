"""Pieces are joined, and left apart."""

from __future__ import annotations

from reverie.backends.decoding.pieces import merged, without_alternatives
from reverie.events import Delta, Event, Prompt, TokenLogprob, ToolCallDelta, TopLogprob


def test_merging_joins_pieces_of_text_and_nothing_else() -> None:
    call = Delta(tool_calls=(ToolCallDelta(0, "a", "f"),))
    logprob = Delta("d", logprobs=(TokenLogprob("d", -1.0),))
    events: list[Event] = [
        Prompt(3),
        Delta("a"),
        Delta("b", tokens=3),
        logprob,
        Delta("c", tokens=0),
        call,
        Delta("e", reasoning="hm"),
        Delta("f"),
        Delta("g"),
    ]
    assert merged(events) == [
        Prompt(3),
        Delta("ab", tokens=4),
        logprob,
        Delta("c", tokens=0),
        call,
        Delta("e", reasoning="hm"),
        Delta("fg", tokens=2),
    ]


def test_without_alternatives_each_token_keeps_its_own_logprob() -> None:
    entry = TokenLogprob("a", -1.0, [97], [TopLogprob("b", -2.0)])
    own = Delta("a", logprobs=(TokenLogprob("a", -1.0, [97]),))
    assert without_alternatives(Delta("a", logprobs=(entry,))) == own
