"""Renders what isn't generated: vectors, rankings, tokens. They follow from the texts alone.

A text's tokens are its bytes. Its vector counts them, by their remainder of ``SIZE``, and has a
length of 1. A document's score is the share of the query's words that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from reverie.testing.render import Refusal, RenderedAnswer, instead
from reverie.testing.script import Script

SIZE = 8
"""Numbers in a vector."""


def is_task(path: str, body: bytes) -> bool:
    """True for a request that this module answers. ``/tokenize`` of messages is another."""
    return path in _ROUTES and not (path == "/tokenize" and b'"messages"' in body)


def render(script: Script, path: str, body: object, model: str) -> RenderedAnswer:
    """The answer, as one JSON body. Faults that need a token come before it.

    Raises:
        Refusal: the body isn't one for this route.
    """
    if (other := instead(script, "application/json", streamed=False)) is not None:
        return other
    if not isinstance(body, dict):
        raise Refusal("The body must be a JSON object.")
    try:
        answer = _ROUTES[path](body, model)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Refusal("The body lacks a field, or one has a wrong type.") from None
    if not script.usage:
        answer.pop("usage", None)
    return RenderedAnswer(200, "application/json", False, (b"",), msgspec.json.encode(answer))


def vector(tokens: list[int] | bytes) -> list[float]:
    """The vector of a text, by its tokens."""
    counts = [0] * SIZE
    for token in tokens:
        counts[token % SIZE] += 1
    length = math.hypot(*counts)
    return [count / length for count in counts]


def _tokens(one: Any) -> list[int] | bytes:
    return one.encode() if isinstance(one, str) else [int(token) for token in one]


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _embed(body: dict[str, Any], model: str) -> dict[str, Any]:
    given = body["input"]
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    if not inputs or not all(inputs):
        raise Refusal("input must not be empty.")
    read = [_tokens(one) for one in inputs]
    data = [
        {"object": "embedding", "index": index, "embedding": vector(tokens)}
        for index, tokens in enumerate(read)
    ]
    return {"object": "list", "data": data, "model": model, "usage": _usage(sum(map(len, read)))}


def _rerank(body: dict[str, Any], model: str) -> dict[str, Any]:
    words = set(body["query"].split())
    scored = [
        {"index": index, "relevance_score": len(words & set(document.split())) / len(words)}
        for index, document in enumerate(body["documents"])
    ]
    scored.sort(key=lambda one: -one["relevance_score"])  # as engines send them
    tokens = sum(len(_tokens(body["query"])) + len(_tokens(one)) for one in body["documents"])
    return {"model": model, "results": scored, "usage": _usage(tokens)}


def _tokenize(body: dict[str, Any], _model: str) -> dict[str, Any]:
    tokens = list(_tokens(body["content"] if "content" in body else body["prompt"]))
    special = body.get("add_special") or body.get("add_special_tokens")
    return {"tokens": [1, *tokens] if special else tokens, "count": len(tokens)}


def _detokenize(body: dict[str, Any], _model: str) -> dict[str, Any]:
    return {"content": bytes(body["tokens"]).decode()}


_ROUTES: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "/v1/embeddings": _embed,
    "/v1/rerank": _rerank,
    "/tokenize": _tokenize,
    "/detokenize": _detokenize,
}
