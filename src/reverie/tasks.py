"""What a model is asked for besides an answer: vectors, a ranking, tokens; and what it gives.

Each request is done in one piece: it has no stream, and is asked again from its beginning where a
backend fails it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from reverie.prompt_bounds import bound_of_text, estimate_of_text

Task: TypeAlias = Literal["generate", "embed", "rerank"]
"""What a model is for. Each of them can turn text into tokens."""

R = TypeVar("R")


class TaskRequest(Struct, Generic[R], frozen=True, kw_only=True):
    """One request; ``R`` is what answers it."""

    param: ClassVar[str]
    """The client's name of the field that holds its texts."""
    bounds: Sequence[int] = ()
    """The most tokens of each prompt that an engine reads for it. Set when the request is made."""
    estimate: int = 0
    """The tokens of all of them, were they English, for a bill without a count; likewise."""

    def _set_sizes(self, bounds: Sequence[int], estimate: int) -> None:
        msgspec.structs.force_setattr(self, "bounds", bounds)
        msgspec.structs.force_setattr(self, "estimate", estimate)


class Embeddings(Struct, frozen=True):
    """A vector for each input, all of one length, of finite numbers that fit 32 bits."""

    vectors: list[list[float]]
    prompt_tokens: int | None
    """Tokens of all inputs; None if the engine told none."""

    def shortened(self, dimensions: int | None) -> list[list[float]]:
        """The first numbers of each vector, with a length of 1 unless all of them are 0."""
        return [_shortened(vector, dimensions) for vector in self.vectors]


def _shortened(vector: list[float], dimensions: int | None) -> list[float]:
    if dimensions is None or dimensions == len(vector):
        return vector
    first = vector[:dimensions]
    length = math.hypot(*first)
    return [number / length for number in first] if length else first


class EmbedRequest(TaskRequest[Embeddings], frozen=True):
    """Texts, or lists of token ids. There is at least one, and none of them is empty.

    ``dimensions``: how many numbers of each vector the client wants; None: all. An engine isn't
    told, and gives all.
    """

    inputs: Sequence[str | list[int]]
    dimensions: int | None = None
    param: ClassVar[str] = "input"

    def __post_init__(self) -> None:
        sizes = [
            (bound_of_text(it), estimate_of_text(it)) if isinstance(it, str) else (len(it), len(it))
            for it in self.inputs
        ]
        self._set_sizes([bound for bound, _ in sizes], sum(estimate for _, estimate in sizes))


class Ranking(Struct, frozen=True):
    """How well each document answers the query, in the documents' order; higher is better."""

    scores: list[float]
    prompt_tokens: int | None
    """Tokens of all pairs of query and document; None if the engine told none."""


class RerankRequest(TaskRequest[Ranking], frozen=True):
    """A query, and at least one document."""

    query: str
    documents: list[str]
    param: ClassVar[str] = "documents"

    def __post_init__(self) -> None:
        query = bound_of_text(self.query) + _RERANK_TEMPLATE
        estimate = len(self.documents) * estimate_of_text(self.query)
        self._set_sizes(
            [query + bound_of_text(document) for document in self.documents],
            estimate + sum(map(estimate_of_text, self.documents)),
        )


_RERANK_TEMPLATE = 128
"""Tokens in which a model is told what to rank (Qwen3-Reranker: about 80)."""


class Tokens(Struct, frozen=True):
    ids: list[int]


class TokenizeRequest(TaskRequest[Tokens], frozen=True):
    """A text to be split into tokens.

    ``add_special``: with the tokens that the model expects at a prompt's beginning or end.
    """

    text: str
    add_special: bool
    param: ClassVar[str] = "content"


class Text(Struct, frozen=True):
    text: str


class DetokenizeRequest(TaskRequest[Text], frozen=True):
    """Token ids to be joined into text."""

    tokens: list[int]
    param: ClassVar[str] = "tokens"
