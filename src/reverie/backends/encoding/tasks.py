"""How each kind of engine is asked for vectors, a ranking, tokens or text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from reverie.backends.encoding.counting import Question
from reverie.settings import BackendKind
from reverie.tasks import (
    DetokenizeRequest,
    EmbedRequest,
    RerankRequest,
    TaskRequest,
    TokenizeRequest,
)

_TOKENIZERS: frozenset[BackendKind] = frozenset({"llamacpp", "vllm", "sglang"})
_KINDS: dict[type[TaskRequest[Any]], frozenset[BackendKind]] = {
    EmbedRequest: frozenset({"generic", "llamacpp", "vllm", "sglang", "ollama", "openai"}),
    RerankRequest: frozenset({"generic", "llamacpp", "vllm", "sglang"}),
    TokenizeRequest: _TOKENIZERS,
    DetokenizeRequest: _TOKENIZERS,
}
"""The kinds that can be asked. What the others lack, or have under names of their own, they aren't.
"""
_MAX_INPUTS = 64
_MAX_INPUT_SIZE = 64 * 1024
"""An engine gets so many texts, of so many characters together, at a time: it answers before it
counts as silent, and other requests come in between."""
_TOKEN_SIZE = 4

_encode = msgspec.json.Encoder().encode


def can_be_asked(request: TaskRequest[Any], kind: BackendKind) -> bool:
    """True if this kind of engine knows such requests."""
    return kind in _KINDS[type(request)]


def pieces(request: TaskRequest[Any]) -> Iterator[TaskRequest[Any]]:
    """The request, as one or more that are asked one after the other."""
    if not isinstance(request, EmbedRequest):
        yield request
        return
    piece: list[str | list[int]] = []
    size = 0
    for one in request.inputs:
        more = len(one) * (1 if isinstance(one, str) else _TOKEN_SIZE)
        if piece and (len(piece) == _MAX_INPUTS or size + more > _MAX_INPUT_SIZE):
            yield EmbedRequest(piece)
            piece, size = [], 0
        piece.append(one)
        size += more
    yield EmbedRequest(piece)


def question(request: TaskRequest[Any], model: str, kind: BackendKind) -> Question:
    """What to ask an engine that ``can_be_asked``.

    Args:
        model: the model's name on that engine.
    """
    if isinstance(request, EmbedRequest):
        body = {"model": model, "input": request.inputs, "encoding_format": "float"}
        return Question("embeddings", _encode(body))
    if isinstance(request, RerankRequest):
        body = {"model": model, "query": request.query, "documents": request.documents}
        return Question("rerank", _encode(body))
    if isinstance(request, TokenizeRequest):
        return Question("/tokenize", _encode(_tokenize(request, model, kind)))
    assert isinstance(request, DetokenizeRequest)
    return Question("/detokenize", _encode({"model": model, "tokens": request.tokens}))


def _tokenize(request: TokenizeRequest, model: str, kind: BackendKind) -> dict[str, Any]:
    if kind == "llamacpp":
        return {"content": request.text, "add_special": request.add_special}
    return {"model": model, "prompt": request.text, "add_special_tokens": request.add_special}
