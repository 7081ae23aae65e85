"""``/v1/rerank`` over a scripted engine: what it takes, what it gives, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway

PATH = "/v1/rerank"
DOCUMENTS = ["nothing", "red apples and green", "red", "green apples are red"]


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, model={"task": "rerank"})


async def rank(gateway: Gateway, **more: Any) -> Any:
    body = {"query": "red apples", "documents": DOCUMENTS, **more}
    status, answer, _ = await gateway.post(body, PATH)
    assert status == 200, answer
    return answer


async def test_documents_come_back_by_relevance_and_equals_in_their_order(
    gateway: Gateway,
) -> None:
    answer = await rank(gateway)
    assert answer["results"] == [
        {"index": 1, "relevance_score": 1.0},
        {"index": 3, "relevance_score": 1.0},
        {"index": 2, "relevance_score": 0.5},
        {"index": 0, "relevance_score": 0.0},
    ]
    assert answer["model"] == "m"
    tokens = 4 * len("red apples") + sum(map(len, DOCUMENTS))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


async def test_the_best_are_given_with_their_texts_where_asked(gateway: Gateway) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    answer = await rank(gateway, documents=documents, top_n=2, return_documents=True)
    assert [one["document"] for one in answer["results"]] == [documents[1], documents[3]]
    assert len((await rank(gateway, top_n=99))["results"]) == 4


@pytest.mark.parametrize(
    "said",
    [
        b'{"results":[{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":-3}]}',
        b'[{"index":1,"score":0.9,"document":"b"},{"index":0,"score":-3,"document":"a"}]',
        b'{"results":[{"index":0,"relevance_score":-3},{"index":1,"relevance_score":0.9}]}',
    ],
)
async def test_engines_may_say_it_in_their_own_order_and_words(
    gateway: Gateway, engine: ScriptedEngine, said: bytes
) -> None:
    engine.script = Script(body=said)
    answer = await rank(gateway, documents=["a", "b"])
    assert [one["index"] for one in answer["results"]] == [1, 0]


async def test_a_document_without_a_score_is_the_engine_s_failure(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    for said in (b'{"results":[{"index":0,"relevance_score":1}]}', b'{"results":[]}', b"[]"):
        engine.script = Script(body=said)
        body = {"query": "q", "documents": ["a", "b"]}
        status, answer, _ = await gateway.post(body, PATH)
        assert (status, answer["error"]["code"]) == (502, "backend_error")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": 7}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", ""]}, "documents.1"),
        ({"documents": ["a", 1]}, "documents.1"),
        ({"documents": ["a", {"title": "b"}]}, "documents.1"),
        ({"documents": ["a"] * 1001}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
        ({"rank_fields": ["text"]}, "rank_fields"),
    ],
)
async def test_a_mistake_is_refused_by_its_field(
    gateway: Gateway, engine: ScriptedEngine, change: dict[str, Any], param: str
) -> None:
    body = {"query": "red", "documents": DOCUMENTS, **change}
    status, answer, _ = await gateway.post(body, PATH)
    assert (status, answer["error"]["param"]) == (400, param)
    assert engine.generations == 0
