"""What each kind of engine is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reverie.backends.encoding.tasks import can_be_asked, pieces, question
from reverie.settings import BackendKind
from reverie.tasks import (
    DetokenizeRequest,
    EmbedRequest,
    RerankRequest,
    TaskRequest,
    TokenizeRequest,
)

EMBED = EmbedRequest(["a", "b"])
RANK = RerankRequest("q", ["a", "b"])
SPLIT = TokenizeRequest("a", add_special=True)
JOIN = DetokenizeRequest([1, 2])


@pytest.mark.parametrize(
    ("kind", "able"),
    [
        ("generic", [EMBED, RANK]),
        ("llamacpp", [EMBED, RANK, SPLIT, JOIN]),
        ("vllm", [EMBED, RANK, SPLIT, JOIN]),
        ("sglang", [EMBED, RANK, SPLIT, JOIN]),
        ("ollama", [EMBED]),
        ("openai", [EMBED]),
        ("livepeer", []),
    ],
)
def test_a_kind_is_asked_for_what_it_knows(kind: BackendKind, able: list[TaskRequest[Any]]) -> None:
    assert [one for one in (EMBED, RANK, SPLIT, JOIN) if can_be_asked(one, kind)] == able


@pytest.mark.parametrize(
    ("request_", "kind", "path", "body"),
    [
        (EMBED, "vllm", "embeddings",
         {"model": "there", "input": ["a", "b"], "encoding_format": "float"}),
        (RANK, "llamacpp", "rerank", {"model": "there", "query": "q", "documents": ["a", "b"]}),
        (SPLIT, "llamacpp", "/tokenize", {"content": "a", "add_special": True}),
        (SPLIT, "vllm", "/tokenize",
         {"model": "there", "prompt": "a", "add_special_tokens": True}),
        (JOIN, "sglang", "/detokenize", {"model": "there", "tokens": [1, 2]}),
    ],
)  # fmt: skip
def test_it_is_asked_in_its_own_words(
    request_: TaskRequest[Any], kind: BackendKind, path: str, body: dict[str, Any]
) -> None:
    asked = question(request_, "there", kind)
    assert (asked.path, json.loads(asked.body)) == (path, body)


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [
        (["a"] * 64, [64]),
        (["a"] * 65, [64, 1]),
        (["a" * 40_000] * 3, [1, 1, 1]),
        (["a" * 30_000] * 3, [2, 1]),
        (["a" * 1000] * 100, [63, 37]),
        (["a" * 100_000, "a"], [1, 1]),
        ([[1] * 10_000] * 3, [1, 1, 1]),
    ],
)
def test_a_batch_is_asked_in_pieces_of_a_size_that_an_engine_answers_in_time(
    inputs: list[Any], sizes: list[int]
) -> None:
    asked = list(pieces(EmbedRequest(inputs), "vllm"))
    assert [len(piece.inputs) for piece in asked] == sizes
    assert [one for piece in asked for one in piece.inputs] == inputs


def test_on_a_cpu_the_pieces_are_smaller() -> None:
    asked = list(pieces(EmbedRequest(["a" * 5000] * 3), "llamacpp"))
    assert [len(piece.inputs) for piece in asked] == [1, 1, 1]


def test_documents_are_ranked_beside_each_other_save_where_each_is_ranked_by_itself() -> None:
    request = RerankRequest("q" * 1000, ["a" * 5000, "b", "c" * 5000])
    assert list(pieces(request, "vllm")) == [request]
    assert list(pieces(request, "llamacpp")) == [
        RerankRequest("q" * 1000, ["a" * 5000, "b"]),
        RerankRequest("q" * 1000, ["c" * 5000]),
    ]
