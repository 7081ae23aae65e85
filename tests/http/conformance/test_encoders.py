"""Any answer, in any pieces and writes, is what every dialect says; its grammar always holds."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.errors import AnswerCancelled, BackendError
from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, TopLogprob, Usage
from reverie.http.dialects import COMPLETIONS, OPENAI
from reverie.http.dialects.chunks import with_usage
from tests.http.conformance.encoding import EVERY_DIALECT, USAGE, WRITTEN, Written
from tests.http.conformance.readers.chat import ChatReader
from tests.http.conformance.readers.completions import CompletionsReader
from tests.http.conformance.readers.reading import Call, Choice, Reading, Used

KINDS = {
    "completions": frozenset({"text", "logprobs"}),
    "messages": frozenset({"text", "reasoning", "refusal", "calls"}),
    "ollama-generate": frozenset({"text", "reasoning", "refusal", "logprobs"}),
}
"""What a dialect can be given, where that isn't everything."""
_EVERYTHING = frozenset({"text", "reasoning", "refusal", "calls", "logprobs"})

texts = st.text(
    st.one_of(
        st.sampled_from('ab \n\r\t"\\{}:[]\x00\x1f\x1c\x7f\x85\u2028\u2029é🙂\ufeff'),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=8,
)
some = texts.filter(bool)
numbers = st.one_of(st.floats(max_value=0), st.just(float("nan")), st.just(0.5))
pieces = st.lists(
    st.tuples(
        st.sampled_from(["text", "reasoning", "refusal", "logprobs", "call", "blank"]), texts
    ),
    max_size=14,
)
finishes = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


@st.composite
def deltas(draw: st.DrawFn, kinds: frozenset[str]) -> list[Delta]:
    """An answer's pieces, of which neighbours may have come as one delta."""
    made: list[Delta] = []
    calls = 0
    for kind, text in draw(pieces):
        if kind == "call" and "calls" in kinds:
            index = draw(st.integers(0, min(calls, 3)))
            first = index == calls
            calls += first
            name = draw(st.sampled_from(["f", "g\u2028", "é"])) if first else None
            arguments = draw(st.one_of(st.sampled_from(['{"a"', ":1}", "{}", " "]), st.just(text)))
            id = f"call_{index}" if first else None
            if not (first or arguments):
                continue
            piece = Delta(tool_calls=(ToolCallDelta(index, id, name, arguments),))
        elif kind == "logprobs" and "logprobs" in kinds:
            top = [TopLogprob(text, draw(numbers)), TopLogprob("b", -2.0, [98])]
            piece = Delta(text, logprobs=(TokenLogprob(text, draw(numbers), None, top),))
        elif kind in ("text", "reasoning", "refusal") and kind in kinds:
            piece = Delta(**{kind: text})
        else:
            piece = Delta()
        if made and draw(st.booleans()):
            piece = joined(made.pop(), piece)
        made.append(piece)
    return made


def joined(one: Delta, other: Delta) -> Delta:
    """Two deltas as an engine gives them in one."""
    return Delta(
        one.text + other.text,
        one.reasoning + other.reasoning,
        one.tool_calls + other.tool_calls,
        one.logprobs + other.logprobs,
        refusal=one.refusal + other.refusal,
    )


@st.composite
def batched(draw: st.DrawFn, kinds: frozenset[str]) -> list[list[Delta]]:
    """The same in random batches, of which some are empty."""
    batches: list[list[Delta]] = [[]]
    for delta in draw(deltas(kinds)):
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append(delta)
    return batches


def given_in(batches: list[list[Delta]]) -> Choice:
    """What was put into an encoder."""
    choice = Choice()
    for delta in [delta for batch in batches for delta in batch]:
        choice.text += delta.text
        choice.reasoning += delta.reasoning
        choice.refusal += delta.refusal
        choice.tokens += [entry.token for entry in delta.logprobs]
        for call in delta.tool_calls:
            if call.index == len(choice.calls):
                choice.calls.append(Call(call.id or "", call.name or ""))
            choice.calls[call.index].arguments += call.arguments
    return choice


def expect_same(written: Written, reading: Reading, batches: list[list[Delta]]) -> None:
    """Expect that a stream or an answer says what was given, and no rule is broken."""
    assert reading.problems == []
    put_in = given_in(batches)
    (got,) = reading.choices
    if written.name in ("messages", "ollama-chat", "ollama-generate"):
        # These know no refusals: they are text, in the place where they came.
        put_in.text = "".join(one.text + one.refusal for batch in batches for one in batch)
        put_in.refusal = ""
    same = (got.text, got.reasoning, got.refusal, got.tokens)
    assert same == (put_in.text, put_in.reasoning, put_in.refusal, put_in.tokens)
    if not written.name.startswith(("messages", "ollama")):
        assert got.calls == put_in.calls
    calls = [(call.id, call.name, call.value) for call in put_in.calls]
    assert [(call.id, call.name, call.value) for call in got.calls] == calls
    assert reading.usage is not None or written.name == "chat-no-usage"
    if reading.usage is not None:
        assert reading.usage[:2] == (USAGE.prompt_tokens, USAGE.completion_tokens)


@EVERY_DIALECT
@given(data=st.data())
@settings(max_examples=30)
def test_what_goes_in_comes_out_streamed_and_whole(written: Written, data: st.DataObject) -> None:
    kinds = KINDS.get(written.name, _EVERYTHING)
    batches = data.draw(batched(kinds))
    stops = st.sampled_from([None, "END"]) if written.name == "messages" else st.none()
    reason = data.draw(finishes)
    finish = Finish(reason, data.draw(stops) if reason == "stop" else None)
    streamed = written.reader().stream(written.stream(batches, finish))
    expect_same(written, streamed, batches)
    flat = [delta for batch in batches for delta in batch]
    whole = written.reader().whole(written.encoder.answer(flat, finish, USAGE))
    expect_same(written, whole, batches)
    assert whole.said == streamed.said


@EVERY_DIALECT
@given(data=st.data())
@settings(max_examples=30)
def test_a_stream_may_break_anywhere(written: Written, data: st.DataObject) -> None:
    batches = data.draw(batched(KINDS.get(written.name, _EVERYTHING)))
    error = data.draw(st.sampled_from([BackendError("It died.\u2028"), AnswerCancelled()]))
    encoder = written.encoder
    sent = b"".join(encoder.batch(batch) for batch in batches)
    reading = written.reader().stream(sent + encoder.error(error))
    assert reading.problems == []
    assert (reading.error, reading.complete) == (error.message, False)
    # Another client of the same answer gets its error as well, and the answer may go on.
    assert encoder.error(error) == encoder.error(error)
    after = written.reader().stream(sent + encoder.end(Finish("stop"), USAGE))
    expect_same(written, after, batches)


@EVERY_DIALECT
@given(data=st.data())
@settings(max_examples=25)
def test_a_stream_whose_end_cannot_be_accounted_for_breaks_before_its_last_write(
    written: Written, data: st.DataObject
) -> None:
    *sent, last = data.draw(batched(KINDS.get(written.name, _EVERYTHING)))
    encoder = written.encoder
    stream = b"".join(encoder.batch(batch) for batch in sent)
    encoder.batch(last)
    encoder.end(Finish("stop"), USAGE)
    reading = written.reader().stream(stream + encoder.error(BackendError("It died.")))
    assert reading.problems == []
    assert (reading.error, reading.complete) == ("It died.", False)


@given(data=st.data())
@settings(max_examples=30)
def test_choices_are_told_apart_whatever_comes_in_between(data: st.DataObject) -> None:
    for dialect, body, reader, kinds in (
        (OPENAI, WRITTEN[1].body, lambda: ChatReader(2), _EVERYTHING),
        (COMPLETIONS, WRITTEN[-1].body, lambda: CompletionsReader(2), KINDS["completions"]),
    ):
        asked = dialect.parse(json.dumps({"model": "m", **body, "n": 2}).encode())
        encoder: Any = dialect.encoder(asked, id="i", model="m", created=7)
        both = [data.draw(batched(kinds)), data.draw(batched(kinds))]
        order = data.draw(st.permutations([0] * (len(both[0]) + 1) + [1] * (len(both[1]) + 1)))
        left = [list(both[0]), list(both[1])]
        breaks_at = data.draw(st.integers(0, len(order)))
        sent = b""
        for at, index in enumerate(order):
            if at == breaks_at:
                broken = sent + encoder.error(BackendError("It died."))
            batch = left[index].pop(0) if left[index] else None
            end = Finish("stop") if batch is None else None
            before, sent = sent, sent + encoder.choice(index, batch or [], end)
        if breaks_at == len(order):  # its end was not accounted for
            broken = before + encoder.error(BackendError("It died."))
        reading = reader().stream(sent + encoder.close(USAGE))
        assert reading.problems == []
        assert reading.usage == Used(10, 5, 4)
        for got, put_in in zip(reading.choices, both, strict=True):
            expected = given_in(put_in)
            expected.finish = "stop"
            assert got == expected
        reading = reader().stream(broken)
        assert (reading.problems, reading.error) == ([], "It died.")


@given(data=st.data())
@settings(max_examples=30)
def test_each_piece_can_carry_the_usage_so_far(data: st.DataObject) -> None:
    batches = data.draw(batched(_EVERYTHING))
    for written in WRITTEN[:2]:
        encoder = written.encoder
        sent = b"".join(
            with_usage(encoder.batch(batch), Usage(10, count))
            for count, batch in enumerate(batches)
        )
        if not sent and written.name == "chat":
            continue  # its first piece comes with the end
        reader = ChatReader(livepeer=written.name == "llm", continuous=True)
        expect_same(written, reader.stream(sent + encoder.end(Finish("stop"), USAGE)), batches)
