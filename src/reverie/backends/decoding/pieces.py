"""The pieces of an answer, as its request needs them."""

from __future__ import annotations

from msgspec import structs

from reverie.events import Delta, Event, TokenLogprob


def merged(events: list[Event]) -> list[Event]:
    """The events, with pieces of text that follow each other as one."""
    kept: list[Event] = []
    texts: list[str] = []
    tokens = 0
    for event in events:
        if isinstance(event, Delta) and not (
            event.reasoning or event.tool_calls or event.logprobs or event.refusal
        ):
            texts.append(event.text)
            tokens += event.tokens
            continue
        if texts:
            kept.append(Delta("".join(texts), tokens=tokens))
            texts, tokens = [], 0
        kept.append(event)
    if texts:
        kept.append(Delta("".join(texts), tokens=tokens))
    return kept


def without_alternatives(delta: Delta) -> Delta:
    """The delta with each token's own log-probability alone."""
    own = tuple(TokenLogprob(one.token, one.logprob, one.bytes) for one in delta.logprobs)
    return structs.replace(delta, logprobs=own)
