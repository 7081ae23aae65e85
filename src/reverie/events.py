"""The one event model: backends produce these, dialects consume these.

A generation is a sequence of *batches*: lists of events that arrived together. It ends with one
``Finish``, then one ``Usage``. Structs are slotted and never validated: they are made on the hot
path, once per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct

__all__ = [
    "Delta",
    "Event",
    "Finish",
    "Prompt",
    "TokenLogprob",
    "ToolCallDelta",
    "TopLogprob",
    "Usage",
]


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

    ``tokens`` is how many tokens it came from, as far as the engine reports that. ``refusal`` is
    what the model says instead of an answer, from engines that tell it apart. ``pieces`` are the
    texts of which ``text`` consists, a token each, where several came together.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int = 1
    refusal: str = ""
    pieces: Sequence[str] = ()


class Prompt(Struct, frozen=True):
    """The size of the prompt, from an engine that reports it before the end of the answer.

    It comes with the first delta. An answer that breaks is billed by it.
    """

    tokens: int
    cached_tokens: int = 0


class Finish(Struct, frozen=True):
    """The end of the answer: ``stop``, ``length``, ``tool_calls`` or ``content_filter``.

    ``stop`` is the stop string that ended it, where the engine tells.
    """

    reason: str
    stop: str | None = None


class Usage(Struct, frozen=True):
    """Token counts, as the engine reports them.

    ``estimated`` is true if the engine reported none: ``completion_tokens`` then counts the pieces
    that arrived; ``prompt_tokens``, if the engine never reported it, is 0 in a backend's events and
    an estimate in those that ``relay`` yields. The details are parts of either count, by the
    engine's names (``reasoning_tokens``, …); ``cached_tokens`` isn't repeated there.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    estimated: bool = False
    prompt_details: dict[str, int] = {}
    completion_details: dict[str, int] = {}


Event: TypeAlias = Delta | Prompt | Finish | Usage
