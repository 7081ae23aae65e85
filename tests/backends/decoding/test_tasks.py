"""Engines' answers: whole and usable, or the engine's failure; refusals, or the client's fault."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reverie.backends.decoding.tasks import joined, result, task_refusal
from reverie.errors import (
    BackendError,
    BackendTimeout,
    ClientError,
    ContextLengthExceeded,
    Overloaded,
    ReverieError,
)
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

TWO = EmbedRequest(["a", "b"])


def vectors(*data: Any, **more: Any) -> bytes:
    return msgspec.json.encode({"data": data, **more})


def at(index: int, *embedding: float) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


def test_vectors_are_read_in_the_order_of_their_texts() -> None:
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    body = vectors(at(1, 0, 1), at(0, 1, 0.5), usage=usage, model="m", object="list")
    assert result(body, TWO) == Embeddings([[1, 0.5], [0, 1]], 5)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": "x"}, 7])
def test_a_count_that_is_none_is_not_told(usage: Any) -> None:
    assert result(vectors(at(0, 1), at(1, 1), usage=usage), TWO).prompt_tokens is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b"[" * 100_000,
        b'{"data":null}',
        b"\xff",
        vectors(),
        vectors(at(0, 1)),
        vectors(at(0, 1), at(0, 1)),
        vectors(at(0, 1), at(2, 1)),
        vectors(at(0, 1), at(1, 1), at(2, 1)),
        vectors(at(0, 1), {"embedding": [1]}),
        vectors(at(0, 1), at(1, 1, 2)),
        vectors(at(0), at(1)),
        vectors(at(0, 1), {"index": 1, "embedding": "AAAA"}),
        b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[null]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[NaN]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1e39]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1e999]}]}',
    ],
)
def test_what_is_not_a_vector_for_each_text_is_the_engine_s_failure(body: bytes) -> None:
    with pytest.raises(BackendError):
        result(body, TWO)


def test_the_parts_of_a_batch_are_one_result_if_they_belong_together() -> None:
    one, two = Embeddings([[1.0]], 3), Embeddings([[2.0], [3.0]], 4)
    assert joined([one, two]) == Embeddings([[1.0], [2.0], [3.0]], 7)
    assert joined([one, Embeddings([[2.0]], None)]).prompt_tokens is None
    assert joined([Ranking([1.0], 1), Ranking([0.5, 2.0], 2)]) == Ranking([1.0, 0.5, 2.0], 3)
    with pytest.raises(BackendError):
        joined([one, Embeddings([[1.0, 2.0]], 1)])


@pytest.mark.parametrize(
    ("body", "scores", "tokens"),
    [
        (b'{"results":[{"index":1,"relevance_score":2},{"index":0,"relevance_score":-1}],'
         b'"usage":{"total_tokens":9}}', [-1, 2], 9),
        (b'[{"score":0.5,"index":0,"document":"a"},{"score":1,"index":1}]', [0.5, 1], None),
    ],
    ids=["vLLM", "SGLang"],
)  # fmt: skip
def test_scores_are_read_in_the_order_of_the_documents(
    body: bytes, scores: list[float], tokens: int | None
) -> None:
    ranking = result(body, RerankRequest("q", ["a", "b"]))
    assert (ranking.scores, ranking.prompt_tokens) == (scores, tokens)


@pytest.mark.parametrize(
    ("request_", "body", "expected"),
    [
        (TokenizeRequest("a", add_special=False), b'{"tokens":[1,2],"count":2}', Tokens([1, 2])),
        (DetokenizeRequest([1]), b'{"content":""}', Text("")),
        (DetokenizeRequest([1]), b'{"prompt":"a"}', Text("a")),
        (DetokenizeRequest([1]), b'{"text":"a"}', Text("a")),
    ],
)
def test_tokens_and_text_are_read(request_: TaskRequest[Any], body: bytes, expected: Any) -> None:
    assert result(body, request_) == expected


def test_an_answer_without_text_is_the_engine_s_failure() -> None:
    with pytest.raises(BackendError):
        result(b"{}", DetokenizeRequest([1]))


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (500, "input (600 tokens) is too large to process. increase the physical batch size "
              "(current batch size: 512)", ContextLengthExceeded),
        (400, "This model's maximum context length is 512 tokens. However, you requested 600 "
              "tokens in the input for embedding generation. Please reduce the length of the "
              "input.", ContextLengthExceeded),
        (400, "Prompt contains invalid tokens", ClientError),
        (400, "Token id 40000 is out of vocabulary", ClientError),
        (500, "vector::_M_range_check: __n (which is 9) >= this->size() (which is 5)", ClientError),
        (400, "something", ClientError),
        (422, "something", ClientError),
        (404, "not found", BackendError),
        (500, "something", BackendError),
        (501, "This server does not support embeddings", BackendError),
        (504, "", BackendTimeout),
        (429, "", Overloaded),
        (503, "Loading model", Overloaded),
    ],
)  # fmt: skip
def test_a_refusal_is_the_client_s_fault_or_the_engine_s(
    status: int, message: str, kind: type[ReverieError]
) -> None:
    body = msgspec.json.encode({"error": {"message": message}})
    error = task_refusal(status, {}, body, TWO)
    assert isinstance(error, kind)
    assert message not in str(error) or not message
    if kind in (ClientError, ContextLengthExceeded):
        assert error.param == "input"
