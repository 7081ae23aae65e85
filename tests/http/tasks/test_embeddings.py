"""``/v1/embeddings`` over scripted engines: what it takes, what it gives, what it refuses."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from reverie.testing.tasks import SIZE, vector
from tests.harness import Gateway, StartGateway

PATH = "/v1/embeddings"


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, model={"task": "embed"})


async def embed(gateway: Gateway, given: Any, **more: Any) -> Any:
    status, answer, _ = await gateway.post({"model": "m", "input": given, **more}, PATH)
    assert status == 200, answer
    return answer


async def test_a_text_becomes_a_vector_in_openai_s_shape(gateway: Gateway) -> None:
    assert await embed(gateway, "Hello") == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": pytest.approx(vector(b"Hello"))}],
        "model": "m",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["Hello", "wörld"], [b"Hello", "wörld".encode()]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2, 3], [4]], [[1, 2, 3], [4]]),
    ],
)
async def test_batches_and_token_ids_are_taken_as_they_are(
    gateway: Gateway, given: Any, read: list[Any]
) -> None:
    answer = await embed(gateway, given)
    assert [one["embedding"] for one in answer["data"]] == [
        pytest.approx(vector(one)) for one in read
    ]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, read))


async def test_base64_holds_the_same_numbers_as_little_endian_floats(gateway: Gateway) -> None:
    answer = await embed(gateway, ["Hello", "world"], encoding_format="base64")
    for one, text in zip(answer["data"], (b"Hello", b"world"), strict=True):
        packed = base64.b64decode(one["embedding"], validate=True)
        assert struct.unpack(f"<{SIZE}f", packed) == pytest.approx(vector(text))


async def test_dimensions_cut_a_vector_and_make_it_a_unit_again(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    whole = (await embed(gateway, "Hello there"))["data"][0]["embedding"]
    cut = (await embed(gateway, "Hello there", dimensions=3))["data"][0]["embedding"]
    assert len(cut) == 3
    assert math.hypot(*cut) == pytest.approx(1)
    assert cut == pytest.approx([number / math.hypot(*whole[:3]) for number in whole[:3]])
    assert "dimensions" not in engine.requests[-1].body
    nothing_left = await embed(gateway, "\x01", dimensions=1)  # its first number is 0
    assert nothing_left["data"][0]["embedding"] == [0]


async def test_more_dimensions_than_there_are_are_refused(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    for _ in range(3):
        status, answer, _ = await gateway.post({"input": "Hi", "dimensions": SIZE + 1}, PATH)
        assert status == 400
        assert answer["error"]["param"] == "dimensions"
        assert str(SIZE) in answer["error"]["message"]
    assert engine.generations == 1  # after which the length is known
    assert len((await embed(gateway, "Hi", dimensions=SIZE))["data"][0]["embedding"]) == SIZE


async def test_a_large_batch_is_asked_in_parts_and_answered_in_order(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    texts = [f"text {number}" for number in range(2048)]
    answer = await embed(gateway, texts)
    assert [one["index"] for one in answer["data"]] == list(range(2048))
    assert answer["data"][1999]["embedding"] == pytest.approx(vector(b"text 1999"))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, texts))
    assert engine.generations == 2048 / 64


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "invalid_request"),
        ({"input": None}, "input", "invalid_request"),
        ({"input": ""}, "input", "invalid_request"),
        ({"input": []}, "input", "invalid_request"),
        ({"input": 7}, "input", "invalid_request"),
        ({"input": {}}, "input", "invalid_request"),
        ({"input": ["a", ""]}, "input.1", "invalid_request"),
        ({"input": ["a", 1]}, "input.1", "invalid_request"),
        ({"input": ["a", [1]]}, "input.1", "invalid_request"),
        ({"input": [[1], []]}, "input.1", "invalid_request"),
        ({"input": [1, "a"]}, "input", "invalid_request"),
        ({"input": [True]}, "input", "invalid_request"),
        ({"input": [[1], [-1]]}, "input.1", "invalid_request"),
        ({"input": [2**31]}, "input", "invalid_request"),
        ({"input": ["a"] * 2049}, "input", "invalid_request"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_request"),
        ({"input": "a", "dimensions": "3"}, "dimensions", "invalid_request"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_request"),
        ({"input": "a", "input_type": "query"}, "input_type", "unsupported_parameter"),
    ],
)
async def test_a_mistake_is_refused_by_its_field_and_asks_no_engine(
    gateway: Gateway, engine: ScriptedEngine, body: Any, param: str, code: str
) -> None:
    status, answer, _ = await gateway.post(body, PATH)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
    assert engine.generations == 0


async def test_what_is_no_json_is_refused(gateway: Gateway) -> None:
    for body in (b"{", b"[]", b'"input"', b'{"input": "\xff"}'):
        status, answer, _ = await gateway.post(body, PATH)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


async def test_vectors_that_are_none_are_the_engine_s_failure(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.script = Script(body=b'{"data":[{"index":0,"embedding":[0.5,null]}]}')
    status, answer, _ = await gateway.post({"input": "Hi"}, PATH)
    assert (status, answer["error"]["code"]) == (502, "backend_error")
