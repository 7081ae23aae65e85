"""Which trace a caller's headers name, and what is made of those that are malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.trace_context import TraceContext, read_context

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def read(parent: str, *states: str) -> TraceContext | None:
    headers = [(b"traceparent", parent.encode())]
    headers += [(b"tracestate", state.encode()) for state in states]
    return read_context(headers)


def test_a_callers_place_is_read() -> None:
    assert read(PARENT) == TraceContext(bytes.fromhex(TRACE), bytes.fromhex(SPAN), True)


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False)])
def test_the_lowest_flag_says_whether_it_is_sampled(flags: str, sampled: bool) -> None:
    context = read(f"00-{TRACE}-{SPAN}-{flags}")
    assert context is not None
    assert context.sampled is sampled


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\r\nX-Evil: 1",
        f"cc-{TRACE}-{SPAN}-01.more",
    ],
)
def test_a_malformed_one_counts_as_none(parent: str) -> None:
    assert read(parent) is None


def test_a_later_version_may_have_more() -> None:
    assert read(f"cc-{TRACE}-{SPAN}-01-what-the-future-holds") == read(PARENT)


def test_two_of_them_count_as_none() -> None:
    assert read_context([(b"traceparent", PARENT.encode())] * 2) is None


def test_the_state_of_several_lines_is_one_list() -> None:
    context = read(PARENT, "ot=th:8, , a@b=1 2", "congo=t61")
    assert context is not None
    assert context.state == "ot=th:8,a@b=1 2,congo=t61"


@pytest.mark.parametrize(
    "state",
    [
        "no-value",
        "UPPER=1",
        "a=1,a=2",
        "a=b=c",
        "a=é",
        "a=\x01",
        "a=" + "x" * 600,
        ",".join(f"k{number}=1" for number in range(33)),
    ],
)
def test_a_malformed_state_is_left_out_and_the_place_kept(state: str) -> None:
    context = read(PARENT, state)
    assert context is not None
    assert context.state == ""


def test_the_line_for_an_engine_is_one_line_and_can_be_read_again() -> None:
    context = TraceContext(b"\x01" * 16, b"\x02" * 8, True, "a=1")
    name, _, value = context.line_for(b"\x03" * 8).partition(b": ")
    assert name == b"traceparent"
    assert value.endswith(b"\r\n")
    assert read_context([(name, value[:-2])]) == context._replace(span_id=b"\x03" * 8, state="")


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_no_bytes_are_too_odd_to_be_read(parent: bytes, state: bytes) -> None:
    read_context([(b"traceparent", parent), (b"tracestate", state)])


@given(st.binary(max_size=40))
def test_what_is_read_has_no_control_characters(state: bytes) -> None:
    context = read_context([(b"traceparent", PARENT.encode()), (b"tracestate", state)])
    assert context is not None
    assert context.state.isprintable()
