"""``/api/embed`` and the older ``/api/embeddings``: texts → vectors, in Ollama's shape.

Source: ``EmbedRequest`` and ``EmbeddingRequest`` in Ollama's ``api/types.go``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, Tag

from reverie.http.request.lenient import Lenient, ignored, ignored_header
from reverie.http.request.schema import union_by_form
from reverie.http.tasks.asked import MAX_INT32, Asked, read
from reverie.tasks import Embeddings, EmbedRequest

_MAX_INPUTS = 2048

_Text = Annotated[str, Field(min_length=1)]
_Input: Any = union_by_form(
    Annotated[_Text, Tag("<string>")]
    | Annotated[
        list[_Text], Field(min_length=1, max_length=_MAX_INPUTS, fail_fast=True), Tag("<array>")
    ],
    "a string or a list of strings",
)


class EmbedBody(Lenient):
    model: str = Field(default="", max_length=200)
    input: _Input
    dimensions: int | None = Field(default=None, ge=1, le=MAX_INT32, strict=True)


class OlderBody(Lenient):
    model: str = Field(default="", max_length=200)
    prompt: _Text


def parse_embed(body: bytes) -> Asked[Embeddings]:
    """Parse and check the body of ``/api/embed``.

    Raises:
        InvalidRequest
    """
    began = time.perf_counter_ns()
    asked = read(body, EmbedBody)
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input

    def answer(result: Embeddings, model: str, tokens: int, estimated: bool) -> Any:
        return {
            "model": asked.model or model,
            "embeddings": result.shortened(asked.dimensions),
            "total_duration": time.perf_counter_ns() - began,
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }

    return _asked(asked, inputs, asked.dimensions, answer)


def parse_older(body: bytes) -> Asked[Embeddings]:
    """Parse and check the body of ``/api/embeddings``.

    Raises:
        InvalidRequest
    """
    asked = read(body, OlderBody)

    def answer(result: Embeddings, model: str, tokens: int, estimated: bool) -> Any:
        return {"embedding": result.vectors[0]}

    return _asked(asked, [asked.prompt], None, answer)


def _asked(
    asked: EmbedBody | OlderBody,
    inputs: list[str],
    dimensions: int | None,
    answer: Callable[[Embeddings, str, int, bool], Any],
) -> Asked[Embeddings]:
    told = ignored_header(ignored(asked))
    return Asked(asked.model, EmbedRequest(list(inputs), dimensions), answer, told)
