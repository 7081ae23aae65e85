"""The one event model: backends produce these, dialects consume these.

A generation is a sequence of *batches*: lists of events that arrived together. It ends with one
``Finish``, then one ``Usage``. Structs are slotted and never validated: they are made on the hot
path, once per token.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class ToolCallDelta(Struct, frozen=True):
    """A piece of one tool call; ``id`` and ``name`` come with its first piece only."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(Struct, frozen=True):
    """One token's log-probability, in OpenAI's shape."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class Delta(Struct, frozen=True):
    """A piece of the answer.

    ``tokens`` is how many made it, as far as the engine says so with each piece.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 1


class Prompt(Struct, frozen=True):
    """The size of the prompt, from an engine that tells it before the answer's end.

    It comes with the answer's first delta, and is what a cut answer's account goes by.
    """

    tokens: int
    cached_tokens: int = 0


class Finish(Struct, frozen=True):
    """The end of the answer: ``stop``, ``length``, ``tool_calls`` or ``content_filter``."""

    reason: str


class Usage(Struct, frozen=True):
    """Token counts, as the engine reports them.

    ``estimated`` is true where the engine reported none: ``completion_tokens`` is then what the
    pieces that arrived came to, and ``prompt_tokens``, if the engine never told it, 0 from a
    backend and a guess by the time that it leaves the gateway.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    estimated: bool = False


Event: TypeAlias = Delta | Prompt | Finish | Usage
