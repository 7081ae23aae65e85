"""Cuts a delta that is too large for one line of a stream, and joins those that are small.

Clients read lines into buffers of 64 KiB: Livepeer's Go gateway ends the stream at a longer one.
Cuts fall between characters, and the largest escape (``\\u001f``) takes six bytes, so that a
bound on characters is a bound on bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reverie.events import Delta, TokenLogprob, ToolCallDelta, TopLogprob

MAX_CHARACTERS = 8_192
"""Characters of text in one chunk: 48 KiB at the worst, beside an envelope of at most 4 KiB."""

SEPARATOR = "\x7f"
"""A character that JSON leaves as it is: one byte, which is in no escape and no other character."""

_MAX_NAME = 256
_MAX_TOKEN = 256
_MAX_LOGPROBS_BYTES = 32_768


def split(delta: Delta) -> Iterator[Delta]:
    """Deltas with the same content, each small enough for one line.

    Reasoning comes before text, a refusal after it, and tool calls last, as models write them.
    Tokens beyond
    256 characters are clipped in logprobs: no vocabulary has one.
    """
    for piece in _cut(delta.reasoning):
        yield Delta(reasoning=piece)
    texts = _cut(delta.text)
    logprobs = _group(delta.logprobs)
    # A token's logprobs belong beside its text, where both are small; more follow on their own.
    beside = logprobs.pop(0) if logprobs and len(delta.text) <= _MAX_TOKEN else ()
    for text in texts or ([""] if beside else []):
        yield Delta(text=text, logprobs=beside)
    for group in logprobs:
        yield Delta(logprobs=group)
    for piece in _cut(delta.refusal):
        yield Delta(refusal=piece)
    for call in delta.tool_calls:
        yield from (Delta(tool_calls=(piece,)) for piece in _cut_call(call))


def joined_pieces(deltas: Sequence[Delta]) -> str | None:
    """The pieces of text with a separator between them; None if there is something else, they are
    too large, or there is only one."""
    texts: list[str] = []
    for delta in deltas:
        if delta.pieces:
            texts += delta.pieces
        elif delta.text:
            texts.append(delta.text)
        if delta.reasoning or delta.tool_calls or delta.logprobs or delta.refusal:
            return None
    if len(texts) < 2:
        return None
    joined = SEPARATOR.join(texts)
    if len(joined) > MAX_CHARACTERS or joined.count(SEPARATOR) != len(texts) - 1:
        return None
    return joined


def _cut(text: str) -> list[str]:
    return [text[start : start + MAX_CHARACTERS] for start in range(0, len(text), MAX_CHARACTERS)]


def _cut_call(call: ToolCallDelta) -> Iterator[ToolCallDelta]:
    first, *rest = _cut(call.arguments) or [""]
    yield ToolCallDelta(
        index=call.index,
        id=call.id and call.id[:_MAX_NAME],
        name=call.name and call.name[:_MAX_NAME],
        arguments=first,
    )
    for piece in rest:
        yield ToolCallDelta(index=call.index, arguments=piece)


def _group(logprobs: tuple[TokenLogprob, ...]) -> list[tuple[TokenLogprob, ...]]:
    """Put logprobs into groups that fit one line each."""
    groups: list[tuple[TokenLogprob, ...]] = []
    group: list[TokenLogprob] = []
    size = 0
    for entry in map(_clip, logprobs):
        cost = _cost(entry)
        if group and size + cost > _MAX_LOGPROBS_BYTES:
            groups.append(tuple(group))
            group, size = [], 0
        group.append(entry)
        size += cost
    if group:
        groups.append(tuple(group))
    return groups


def _clip(entry: TokenLogprob) -> TokenLogprob:
    """The same entry with at most 20 alternatives, and with tokens clipped."""
    return TokenLogprob(
        token=entry.token[:_MAX_TOKEN],
        logprob=entry.logprob,
        bytes=None if entry.bytes is None else entry.bytes[:_MAX_TOKEN],
        top_logprobs=[
            TopLogprob(
                token=other.token[:_MAX_TOKEN],
                logprob=other.logprob,
                bytes=None if other.bytes is None else other.bytes[:_MAX_TOKEN],
            )
            for other in entry.top_logprobs[:20]
        ],
    )


def _cost(entry: TokenLogprob) -> int:
    """An upper bound of an entry's bytes: six a character, four a byte, and its keys."""
    tokens: list[TokenLogprob | TopLogprob] = [entry, *entry.top_logprobs]
    return 32 + sum(64 + 6 * len(one.token) + 4 * len(one.bytes or ()) for one in tokens)
