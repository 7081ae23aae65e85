"""Parallel tool calls, told apart however an engine writes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reverie.backends.decoding.tool_calls import ToolCallPiece, ToolCalls

Call = tuple[str | None, str, str]


def piece(
    index: int | str | None = None,
    id: str | None = None,
    name: str | None = None,
    arguments: Any = None,
) -> dict[str, Any]:
    return {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}


def calls(*pieces: dict[str, Any], names: tuple[str, ...] = (), cut: bool = False) -> list[Call]:
    """What a client assembles of these pieces, each in a chunk of its own."""
    reading = ToolCalls(frozenset(names))
    deltas = [
        delta
        for one in pieces
        for delta in reading.read([msgspec.convert(one, ToolCallPiece)], whole=False)
    ]
    return assembled([*deltas, *reading.end(cut=cut)])


def assembled(deltas: Any) -> list[Call]:
    made: dict[int, Call] = {}
    for delta in deltas:
        if delta.index not in made:
            assert delta.id, "the first piece of a call has its id"
            made[delta.index] = delta.id, delta.name or "", delta.arguments
        else:
            id, name, arguments = made[delta.index]
            assert delta.id is None
            assert delta.name is None
            made[delta.index] = id, name, arguments + delta.arguments
    assert list(made) == list(range(len(made)))
    assert len({id for id, *_ in made.values()}) == len(made)
    return list(made.values())


F, G = ("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')


@pytest.mark.parametrize(
    "pieces",
    [
        # OpenAI's own
        [piece(0, "a", "f", '{"x"'), piece(0, None, None, ":1}"), piece(1, "b", "g", '{"y":2}')],
        # one index, other ids
        [piece(0, "a", "f", '{"x":1}'), piece(0, "b", "g", '{"y":2}')],
        [piece(0, "a", "f", '{"x"'), piece(0, "a", None, ":1}"), piece(0, "b", "g", '{"y":2}')],
        # no index, one id repeated
        [
            piece(None, "a", "f", '{"x"'),
            piece(None, "a", None, ":1}"),
            piece(None, "b", "g", '{"y":2}'),
        ],
        [
            piece(None, "a", "f", '{"x"'),
            piece(None, None, None, ":1}"),
            piece(None, "b", "g", '{"y":2}'),
        ],
        # the name on every piece
        [piece(0, "a", "f", '{"x"'), piece(0, "a", "f", ":1}"), piece(1, "b", "g", '{"y":2}')],
        # interleaved
        [
            piece(0, "a", "f", '{"x"'),
            piece(1, "b", "g", '{"y"'),
            piece(0, None, None, ":1}"),
            piece(1, None, None, ":2}"),
        ],
        # indexes that don't begin at 0, and ones that are text
        [piece(5, "a", "f", '{"x":1}'), piece(9, "b", "g", '{"y":2}')],
        [
            piece("0", "a", "f", '{"x"'),
            piece("0", None, None, ":1}"),
            piece("1", "b", "g", '{"y":2}'),
        ],
        # an object instead of text
        [piece(0, "a", "f", {"x": 1}), piece(1, "b", "g", {"y": 2})],
        # empty strings instead of nothing
        [piece(0, "a", "f", ""), piece(0, "", "", '{"x":1}'), piece(1, "b", "g", '{"y":2}')],
    ],
)
def test_two_calls_are_two_calls(pieces: list[dict[str, Any]]) -> None:
    assert calls(*pieces, names=("f", "g")) == [F, G]
    assert calls(*pieces) == [F, G]


def test_calls_without_ids_get_ids_of_their_own() -> None:
    made = calls(piece(0, None, "f", "{}"), piece(1, None, "f", "{}"))
    assert [call[1:] for call in made] == [("f", "{}"), ("f", "{}")]
    assert all((id or "").startswith("call_") for id, *_ in made)


def test_two_calls_of_one_function_without_index_or_id_are_two() -> None:
    made = calls(piece(None, None, "f", '{"x":1}'), piece(None, None, "f", '{"x":2}'))
    assert [arguments for *_, arguments in made] == ['{"x":1}', '{"x":2}']


def test_an_id_that_comes_twice_in_a_whole_message_is_two_calls() -> None:
    reading = ToolCalls()
    pieces = [msgspec.convert(piece(None, "a", "f", "{}"), ToolCallPiece) for _ in range(2)]
    made = assembled(reading.read(pieces, whole=True))
    assert [call[1:] for call in made] == [("f", "{}"), ("f", "{}")]


def test_a_name_in_fragments_is_one_name() -> None:
    fragments = [piece(0, "a", "get_"), piece(0, None, "weather"), piece(0, None, None, "{}")]
    assert calls(*fragments, names=("get_weather",)) == [("a", "get_weather", "{}")]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert calls(piece(0, "a", "f")) == [("a", "f", "{}")]
    assert calls(piece(0, "a", "f", ""), piece(1, "b", "g", "")) == [
        ("a", "f", "{}"),
        ("b", "g", "{}"),
    ]


def test_of_an_answer_that_was_cut_only_the_last_call_stays_as_it_is() -> None:
    made = calls(piece(0, "a", "f"), piece(1, "b", "g"), cut=True)
    assert made == [("a", "f", "{}"), ("b", "g", "")]


def test_pieces_that_say_nothing_are_no_calls() -> None:
    assert calls(piece(0), piece(None, "", "", "")) == []
