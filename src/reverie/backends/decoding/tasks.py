"""An engine's answer to a request for vectors, a ranking, tokens or text → what it holds, sans-IO.

Rule: what isn't whole and usable is the engine's failure, never half an answer: a vector is missing
or has another length, or a number isn't one (engines write NaN as null).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from reverie.backends.decoding.refusals import NO_TOKEN, refusal
from reverie.backends.decoding.usage import read_counts
from reverie.errors import BackendError, ContextLengthExceeded, RefusedByBackend, ReverieError
from reverie.request import GenerateRequest
from reverie.tasks import (
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    Ranking,
    RerankRequest,
    TaskRequest,
    Text,
    TokenizeRequest,
    Tokens,
)

_MAX_FLOAT32 = 3.4028234663852886e38

R = TypeVar("R")
T = TypeVar("T", bound="_Numbered")


class _Numbered(Struct):
    index: int | None = None


class _Vector(_Numbered, kw_only=True):
    embedding: list[float]


class _Vectors(Struct):
    data: list[_Vector]
    usage: Any = None


class _Score(_Numbered, kw_only=True):
    relevance_score: float | None = None
    score: float | None = None  # SGLang's name of it


class _Scores(Struct):
    results: list[_Score]
    usage: Any = None


class _Tokens(Struct):
    tokens: list[int]


class _Text(Struct):
    content: str | None = None  # llama.cpp
    prompt: str | None = None  # vLLM
    text: str | None = None  # SGLang


_read_scores = msgspec.json.Decoder(_Scores | list[_Score]).decode


def result(body: bytes, request: TaskRequest[R]) -> R:
    """What a body of status 200 holds.

    Raises:
        BackendError: it isn't a whole answer to the request.
    """
    try:
        found: Any = _read(body, request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise unusable("it can't be read") from None
    answer: R = found
    return answer


def _read(body: bytes, request: TaskRequest[Any]) -> Any:
    if isinstance(request, EmbedRequest):
        vectors = msgspec.json.decode(body, type=_Vectors)
        return _embeddings(vectors, len(request.inputs))
    if isinstance(request, RerankRequest):
        return _ranking(_read_scores(body), len(request.documents))
    if isinstance(request, TokenizeRequest):
        return Tokens(msgspec.json.decode(body, type=_Tokens).tokens)
    assert isinstance(request, DetokenizeRequest)
    said = msgspec.json.decode(body, type=_Text)
    texts = [text for text in (said.content, said.prompt, said.text) if text is not None]
    if not texts:
        raise unusable("it has no text")
    return Text(texts[0])


def joined(parts: Sequence[Any]) -> Any:
    """One result of those of the ``pieces`` of a request.

    Raises:
        BackendError: they don't belong together.
    """
    if len(parts) == 1:
        return parts[0]
    counts = [part.prompt_tokens for part in parts]
    tokens = None if None in counts else sum(counts)
    if isinstance(parts[0], Ranking):
        return Ranking(list(chain.from_iterable(part.scores for part in parts)), tokens)
    vectors = list(chain.from_iterable(part.vectors for part in parts))
    _require_one_length(vectors)
    return Embeddings(vectors, tokens)


def _embeddings(said: _Vectors, count: int) -> Embeddings:
    vectors = [one.embedding for one in _in_order(said.data, count)]
    _require_one_length(vectors)
    if not all(-_MAX_FLOAT32 <= number <= _MAX_FLOAT32 for vector in vectors for number in vector):
        raise unusable("a vector has a number that isn't finite")
    return Embeddings(vectors, _prompt_tokens(said.usage))


def _require_one_length(vectors: list[list[float]]) -> None:
    if len(lengths := {len(vector) for vector in vectors}) != 1 or 0 in lengths:
        raise unusable("its vectors differ in length")


def _ranking(said: _Scores | list[_Score], count: int) -> Ranking:
    results, usage = (said, None) if isinstance(said, list) else (said.results, said.usage)
    scores = []
    for one in _in_order(results, count):
        score = one.score if one.relevance_score is None else one.relevance_score
        if score is None or not -_MAX_FLOAT32 <= score <= _MAX_FLOAT32:
            raise unusable("a document has no score")
        scores.append(score)
    return Ranking(scores, _prompt_tokens(usage))


def _in_order(items: list[T], count: int) -> list[T]:
    """The items by their ``index``, or as they came if none has one."""
    if any(one.index is not None for one in items):
        items = sorted(items, key=lambda one: -1 if one.index is None else one.index)
        if [one.index for one in items] != list(range(count)):
            raise unusable("it leaves some of the texts out")
    if len(items) != count:
        raise unusable("it leaves some of the texts out")
    return items


def _prompt_tokens(usage: Any) -> int | None:
    """The tokens that were read; rerankers may tell the total alone."""
    if not isinstance(usage, dict):
        return None
    told = usage.get("prompt_tokens") or usage.get("total_tokens")
    counts = read_counts({"prompt_tokens": told})
    return None if counts is None else counts.prompt


def unusable(why: str) -> BackendError:
    """The failure of an engine whose answer is no answer."""
    return BackendError(
        "The model's backend sent an answer that can't be used. Try again.",
        reason=f"unusable answer: {why}",
    )


# Refusals ---------------------------------------------------------------------------------

_NOTHING = GenerateRequest(model="", messages=[], max_tokens=0)

_TOO_LARGE = re.compile(rb"input \((\d{1,12}) tokens\) is too large[^(]*\([^\d)]*(\d{1,12})\)")
"""llama.cpp, with a 500: an input has to fit one batch."""


def task_refusal(
    status: int, headers: Mapping[str, str], body: bytes, request: TaskRequest[Any]
) -> ReverieError:
    """The error for an answer whose status isn't 200."""
    param = request.param
    if status in (400, 413, 422, 500):
        if found := _TOO_LARGE.search(body):
            return ContextLengthExceeded(int(found[1]), int(found[2]), param=param)
        if NO_TOKEN.search(body):
            return RefusedByBackend(f"{param}: the model has no such token.", param=param)
    error = refusal(status, headers, body, _NOTHING)
    if isinstance(error, ContextLengthExceeded):
        return ContextLengthExceeded(error.prompt_tokens, error.context_tokens, param=param)
    if isinstance(error, RefusedByBackend):
        return RefusedByBackend(f"The engine refused the {param} as invalid.", param=param)
    return error
