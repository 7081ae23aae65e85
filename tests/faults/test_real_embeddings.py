"""A real model that embeds, in the embedded engine: its vectors, its limits, its death."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import Any

import openai
import pytest

from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL
from tests.harness import Gateway, StartGateway, chat
from tests.models.minilm import fetch_minilm

pytestmark = pytest.mark.real

PATH = "/v1/embeddings"
SENTENCES = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
]
SIMILARITIES = [
    [1.0000, 0.6660, 0.1046],
    [0.6660, 1.0000, 0.1411],
    [0.1046, 0.1411, 1.0000],
]
"""What the documentation of sentence-transformers gives for this model and these sentences."""


async def start(start_gateway: StartGateway, source: str, **model: Any) -> Gateway:
    settings = {"name": "m", "source": source, "task": "embed", "slots": 2, **model}
    gateway = await start_gateway(models=[settings])
    await gateway.until(lambda: gateway.pool().ready)
    return gateway


async def minilm(start_gateway: StartGateway, **model: Any) -> Gateway:
    return await start(start_gateway, str(await asyncio.to_thread(fetch_minilm)), **model)


async def embed(gateway: Gateway, given: Any, **more: Any) -> list[list[float]]:
    status, answer, _ = await gateway.post({"input": given, **more}, PATH)
    assert status == 200, answer
    return [one["embedding"] for one in answer["data"]]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_its_vectors_are_as_similar_as_the_reference_says(
    start_gateway: StartGateway,
) -> None:
    gateway = await minilm(start_gateway)
    vectors = await embed(gateway, SENTENCES)
    assert {len(vector) for vector in vectors} == {384}
    for vector, expected in zip(vectors, SIMILARITIES, strict=True):
        assert [dot(vector, other) for other in vectors] == pytest.approx(expected, abs=2e-4)


async def test_openai_s_client_gets_them_and_the_engine_counts(
    start_gateway: StartGateway,
) -> None:
    gateway = await minilm(start_gateway)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        by_text = await client.embeddings.create(model="m", input=SENTENCES)
        shorter = await client.embeddings.create(model="m", input=SENTENCES[0], dimensions=64)
    assert [len(one.embedding) for one in by_text.data] == [384] * 3
    assert dot(by_text.data[0].embedding, by_text.data[1].embedding) == pytest.approx(
        0.6660, abs=2e-4
    )
    assert dot(shorter.data[0].embedding, shorter.data[0].embedding) == pytest.approx(1, abs=1e-5)
    _, tokens, _ = await gateway.post({"content": SENTENCES[0], "add_special": True}, "/tokenize")
    assert tokens["tokens"][0] == 101
    assert shorter.usage.prompt_tokens == tokens["count"]
    assert await embed(gateway, tokens["tokens"]) == [
        pytest.approx(by_text.data[0].embedding, abs=1e-5)
    ]
    _, text, _ = await gateway.post({"tokens": tokens["tokens"][1:-1]}, "/detokenize")
    assert text["content"].strip() == "the weather is lovely today ."


async def test_what_it_can_not_read_is_refused_and_it_lives_on(
    start_gateway: StartGateway,
) -> None:
    gateway = await minilm(start_gateway)
    pid = gateway.pool().backends[0].runner.pid
    for given, code in (
        ("word " * 600, "context_length_exceeded"),
        (["fine", "word " * 600], "context_length_exceeded"),
        ([2**31 - 1], "invalid_request"),
        ([[1, 2], [40_000]], "invalid_request"),
    ):
        status, answer, _ = await gateway.post({"input": given}, PATH)
        error = answer["error"]
        assert (status, error["code"], error["param"]) == (400, code, "input")
    status, answer, _ = await gateway.post({"tokens": [2**31 - 1]}, "/detokenize")
    assert (status, answer["error"]["param"]) == (400, "tokens")
    for path in ("/v1/chat/completions", "/v1/rerank"):
        body = chat() if "chat" in path else {"query": "a", "documents": ["b"]}
        status, answer, _ = await gateway.post(body, path)
        assert status == 400
        assert "/v1/embeddings" in answer["error"]["message"]
    assert len(await embed(gateway, ["a " * 400, " ", "\x00", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢"])) == 4
    assert gateway.pool().backends[0].runner.pid == pid


async def test_a_model_that_is_not_loaded_is_loaded_for_it(start_gateway: StartGateway) -> None:
    source = str(await asyncio.to_thread(fetch_minilm))
    for path, body in ((PATH, {"input": "Hello"}), ("/tokenize", {"content": "Hello"})):
        cold = {"name": "m", "source": source, "task": "embed", "warm": False}
        gateway = await start_gateway(models=[cold])
        assert gateway.app.models.default.state == "cold"
        status, answer, _ = await gateway.post(body, path)
        assert status == 200, answer
        assert gateway.app.models.default.state == "ready"


async def test_a_death_costs_a_pause_and_no_request(start_gateway: StartGateway) -> None:
    gateway = await minilm(start_gateway)
    asked = [asyncio.create_task(embed(gateway, ["word " * 300] * 16)) for _ in range(3)]
    await gateway.until(lambda: gateway.pool().in_flight == 2)
    os.kill(gateway.pool().backends[0].runner.pid, signal.SIGKILL)
    answers = await asyncio.gather(*asked)
    assert [len(answer) for answer in answers] == [16] * 3
    assert gateway.pool().in_flight == 0


async def test_a_chat_model_embeds_by_the_mean_of_its_tokens(start_gateway: StartGateway) -> None:
    await asyncio.to_thread(fetch, DEFAULT_MODEL)
    gateway = await start(start_gateway, DEFAULT_MODEL, context=256)
    alike, other, same = await embed(gateway, [SENTENCES[0], SENTENCES[2], SENTENCES[0]])
    assert len(alike) == 576
    assert dot(alike, same) == pytest.approx(1, abs=1e-3)
    assert dot(alike, other) < 0.999
    assert len(await embed(gateway, ["word " * 200] * 8)) == 8  # more than its cache holds at once


async def test_a_model_with_a_head_for_it_ranks_each_document_by_itself(
    start_gateway: StartGateway,
) -> None:
    source = str(await asyncio.to_thread(partial(fetch_minilm, ranks=True)))
    gateway = await start(start_gateway, source, task="rerank")

    async def scores(*documents: str) -> list[float]:
        body = {"query": "What is a panda?", "documents": documents}
        status, answer, _ = await gateway.post(body, "/v1/rerank")
        assert status == 200, answer
        assert answer["usage"]["prompt_tokens"] >= 8 * len(documents)
        best_first = [one["relevance_score"] for one in answer["results"]]
        assert best_first == sorted(best_first, reverse=True)
        by_index = {one["index"]: one["relevance_score"] for one in answer["results"]}
        return [by_index[index] for index in range(len(documents))]

    bear, hi, again = await scores("It is a bear.", "Hi", "It is a bear.")
    assert bear == pytest.approx(again, abs=1e-3)
    assert bear != pytest.approx(hi, abs=1e-3)
    assert await scores("Hi", *["word " * 100] * 70) == pytest.approx(
        [hi, *await scores("word " * 100) * 70], abs=1e-2
    )
    body = {"query": "Who?", "documents": ["fine", "word " * 600]}
    status, answer, _ = await gateway.post(body, "/v1/rerank")
    error = answer["error"]
    assert (status, error["code"], error["param"]) == (
        400,
        "context_length_exceeded",
        "documents",
    )
    status, answer, _ = await gateway.post({"input": "Hi"}, PATH)
    assert (status, answer["error"]["param"]) == (400, "model")
