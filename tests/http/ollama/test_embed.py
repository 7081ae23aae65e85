"""``/api/embed`` and ``/api/embeddings`` over scripted engines."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reverie.testing import ScriptedEngine
from reverie.testing.tasks import SIZE, vector
from tests.harness import Gateway, StartGateway


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, model={"task": "embed"}, server={"ollama": True})


@pytest.mark.parametrize("given", ["Hello", ["Hello", "world"]])
async def test_texts_become_vectors(gateway: Gateway, given: Any) -> None:
    asked = {"model": "m:latest", "input": given, "truncate": True}
    status, answer, headers = await gateway.post(asked, "/api/embed")
    texts = [given] if isinstance(given, str) else given
    assert status == 200
    assert answer["embeddings"] == [pytest.approx(vector(text.encode())) for text in texts]
    assert (answer["model"], answer["prompt_eval_count"]) == ("m:latest", 5 * len(texts))
    assert answer["total_duration"] > 0
    assert headers["x-reverie-ignored"] == "truncate"


async def test_a_vector_is_shortened_to_a_length_of_one(gateway: Gateway) -> None:
    _, answer, _ = await gateway.post({"input": "Hello", "dimensions": 3}, "/api/embed")
    assert len(answer["embeddings"][0]) == 3
    assert math.hypot(*answer["embeddings"][0]) == pytest.approx(1)


async def test_the_older_route_takes_one_prompt(gateway: Gateway) -> None:
    status, answer, _ = await gateway.post({"model": "m", "prompt": "Hello"}, "/api/embeddings")
    assert (status, list(answer)) == (200, ["embedding"])
    assert answer["embedding"] == pytest.approx(vector(b"Hello"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {}),
        ("/api/embed", {"input": ""}),
        ("/api/embed", {"input": []}),
        ("/api/embed", {"input": ["a", 7]}),
        ("/api/embed", {"input": ["a"] * 2049}),
        ("/api/embed", {"input": "a", "dimensions": SIZE + 1}),
        ("/api/embed", {"input": "a", "dimensions": 0}),
        ("/api/embeddings", {"prompt": ""}),
        ("/api/embed", {"input": "a", "model": "other"}),
    ],
)
async def test_a_mistake_is_said_in_ollama_s_shape(
    gateway: Gateway, path: str, body: dict[str, Any]
) -> None:
    status, answer, _ = await gateway.post(body, path)
    assert status == (404 if "model" in body else 400)
    assert list(answer) == ["error"]
    assert isinstance(answer["error"], str)


async def test_without_ollama_s_api_there_is_no_such_route(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, model={"task": "embed"})
    assert (await gateway.post({"input": "a"}, "/api/embed"))[0] == 404
