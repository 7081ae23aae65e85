"""The readers notice what is wrong: a suite whose readers forgive proves nothing."""

from __future__ import annotations

import pytest

from reverie.errors import BackendError
from reverie.events import Delta, Finish, ToolCallDelta
from tests.http.conformance.encoding import EVERY_DIALECT, WRITTEN, Written
from tests.http.conformance.readers.reading import Reading

BATCHES = [
    [Delta(reasoning="Hm"), Delta(reasoning="m.")],
    [Delta("Let me"), Delta(" look.")],
    [Delta(tool_calls=(ToolCallDelta(0, "call_a", "f", '{"a"'),))],
    [Delta(tool_calls=(ToolCallDelta(0, arguments=":1}"),))],
    [Delta(tool_calls=(ToolCallDelta(1, "call_b", "g", '{"b":2}'),))],
]


def events_of(written: Written) -> list[bytes]:
    """The events of a stream with as much in it as the dialect can say."""
    stream = written.stream(BATCHES, Finish("tool_calls"))
    end = b"\n" if written.name.startswith("ollama") else b"\n\n"
    return [event + end for event in stream.split(end)[:-1]]


def read(written: Written, events: list[bytes]) -> Reading:
    return written.reader().stream(b"".join(events))


@EVERY_DIALECT
def test_an_event_that_is_missing_or_there_twice_is_noticed(written: Written) -> None:
    events = events_of(written)
    good = read(written, events)
    assert good.problems == []
    for at in range(len(events)):
        for changed in (events[:at] + events[at + 1 :], [*events[: at + 1], *events[at:]]):
            got = read(written, changed)
            assert got.problems or got.said != good.said, events[at]


@EVERY_DIALECT
def test_an_event_after_the_end_is_noticed(written: Written) -> None:
    events = events_of(written)
    error = written.encoder.error(BackendError("It died."))
    for more in (*events, error):
        assert read(written, [*events, more]).problems
    for more in events:
        assert read(written, [*events[:2], error, more]).problems
    assert not read(written, [written.encoder.error(BackendError("It died."))]).problems


@pytest.mark.parametrize(
    "written",
    [one for one in WRITTEN if one.name in ("messages", "responses", "responses-summary")],
    ids=lambda written: written.name,
)
def test_events_in_another_order_are_noticed(written: Written) -> None:
    events = events_of(written)
    good = read(written, events)
    for at in range(len(events) - 1):
        swapped = [*events[:at], events[at + 1], events[at], *events[at + 2 :]]
        got = read(written, swapped)
        assert got.problems or got.said != good.said, events[at]


@EVERY_DIALECT
def test_a_stream_that_was_cut_is_noticed(written: Written) -> None:
    events = events_of(written)
    whole = b"".join(events)
    between = {len(b"".join(events[:count])) for count in range(len(events))}
    for size in between | set(range(0, len(whole), 13)):
        assert written.reader().stream(whole[:size]).problems, whole[:size]


@pytest.mark.parametrize(
    "written",
    [one for one in WRITTEN if one.reader().numbered],
    ids=lambda written: written.name,
)
def test_a_gap_in_the_numbers_is_noticed(written: Written) -> None:
    events = events_of(written)
    numbered = [b"id: %d\n%b" % (number, event) for number, event in enumerate(events, start=5)]
    assert not read(written, numbered).problems
    for at in range(1, len(events)):
        wrong = b"id: %d\n%b" % (at + 4, events[at])
        assert read(written, [*numbered[:at], wrong, *numbered[at + 1 :]]).problems
        assert read(written, [*numbered[:at], events[at], *numbered[at + 1 :]]).problems
