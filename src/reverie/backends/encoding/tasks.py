"""How each kind of engine is asked for vectors, a ranking, tokens or text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

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
_MAX_TEXTS = 64
_MAX_CHARACTERS = 64 * 1024
_MAX_CHARACTERS_HERE = 8 * 1024
"""An engine gets so many texts, of so many characters together, at a time: it answers before it
counts as silent, and other requests come in between. llama.cpp may have to do it on a CPU."""
_TOKEN_CHARACTERS = 4
_AROUND = 32
"""Characters that a text counts for besides its own."""

X = TypeVar("X", str, str | list[int])

_encode = msgspec.json.Encoder().encode


def can_be_asked(request: TaskRequest[Any], kind: BackendKind) -> bool:
    """True if this kind of engine knows such requests."""
    return kind in _KINDS[type(request)]


def pieces(request: TaskRequest[Any], kind: BackendKind) -> Iterator[TaskRequest[Any]]:
    """The request, as one or more that are asked one after the other.

    Other rerankers than llama.cpp's may look at all documents together.
    """
    if isinstance(request, EmbedRequest):
        for inputs in _parts(request.inputs, kind):
            yield EmbedRequest(inputs)
    elif isinstance(request, RerankRequest) and kind == "llamacpp":
        for documents in _parts(request.documents, kind, around=len(request.query)):
            yield RerankRequest(request.query, documents)
    else:
        yield request


def _parts(texts: Sequence[X], kind: BackendKind, *, around: int = 0) -> Iterator[list[X]]:
    limit = _MAX_CHARACTERS_HERE if kind == "llamacpp" else _MAX_CHARACTERS
    part: list[X] = []
    size = 0
    for text in texts:
        own = len(text) * (1 if isinstance(text, str) else _TOKEN_CHARACTERS)
        if part and (len(part) == _MAX_TEXTS or size + own > limit):
            yield part
            part, size = [], 0
        part.append(text)
        size += own + around + _AROUND
    yield part


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
