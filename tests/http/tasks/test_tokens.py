"""``/tokenize`` and ``/detokenize`` in llama.cpp's and vLLM's words, over scripted engines."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway

HELLO = list(b"Hello")


@pytest.fixture(params=["llamacpp", "vllm", "sglang"])
async def gateway(
    engine: ScriptedEngine, start_gateway: StartGateway, request: pytest.FixtureRequest
) -> Gateway:
    return await start_gateway(engine, backend={"kind": request.param})


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"content": "Hello"}, HELLO),
        ({"content": "Hello", "add_special": True}, [1, *HELLO]),
        ({"prompt": "Hello"}, [1, *HELLO]),
        ({"prompt": "Hello", "add_special_tokens": False}, HELLO),
        ({"text": "Hello", "model": "alias"}, HELLO),
        ({"content": ""}, []),
    ],
)
async def test_a_text_is_split_under_either_name(
    gateway: Gateway, body: dict[str, Any], tokens: list[int]
) -> None:
    status, answer, _ = await gateway.post(body, "/tokenize")
    assert (status, answer) == (200, {"tokens": tokens, "count": len(tokens), "model": "m"})


async def test_tokens_are_joined_under_both_names(gateway: Gateway) -> None:
    status, answer, _ = await gateway.post({"model": "m", "tokens": HELLO}, "/detokenize")
    assert (status, answer) == (200, {"content": "Hello", "prompt": "Hello", "model": "m"})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 1}, "content"),
        ("/tokenize", {"content": "a", "prompt": "a"}, "prompt"),
        ("/tokenize", {"text": "a", "add_special": True, "add_special_tokens": True},
         "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "return_token_strs": True}, "return_token_strs"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens.1"),
        ("/detokenize", {"tokens": [True]}, "tokens.0"),
        ("/detokenize", {"tokens": [2**40]}, "tokens.0"),
    ],
)  # fmt: skip
async def test_a_mistake_is_refused_by_its_field(
    engine: ScriptedEngine, start_gateway: StartGateway, path: str, body: Any, param: str
) -> None:
    gateway = await start_gateway(engine, backend={"kind": "vllm"})
    status, answer, _ = await gateway.post(body, path)
    assert (status, answer["error"]["param"]) == (400, param)
    assert engine.generations == 0


async def test_a_token_that_the_model_does_not_have_is_the_client_s_fault(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    said = "vector::_M_range_check: __n (which is 999999999) >= this->size() (which is 49152)"
    engine.script = Script(status=500, error={"message": said})
    status, answer, _ = await gateway.post({"tokens": [999_999_999]}, "/detokenize")
    assert (status, answer["error"]["param"]) == (400, "tokens")


async def test_another_engine_is_asked_where_one_fails_or_can_not(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(status=500)
    async with ScriptedEngine() as other, ScriptedEngine() as unable:
        backends = [
            {"url": unable.url, "kind": "openai"},
            {"url": engine.url, "kind": "vllm"},
            {"url": other.url, "kind": "llamacpp"},
        ]
        gateway = await start_gateway(models=[{"name": "m", "backends": backends}])
        status, answer, _ = await gateway.post({"content": "Hello"}, "/tokenize")
        assert (status, answer["tokens"]) == (200, HELLO)
        assert unable.generations == 0
        other.script = Script(status=500)
        status, answer, _ = await gateway.post({"content": "Hello"}, "/tokenize")
        assert (status, answer["error"]["code"]) == (502, "backend_error")


async def test_where_no_engine_can_that_is_said(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, backend={"kind": "openai"})
    for path, body in (("/tokenize", {"content": "a"}), ("/detokenize", {"tokens": [1]})):
        status, answer, _ = await gateway.post(body, path)
        assert (status, answer["error"]["param"]) == (400, "model")
        assert "openai" in answer["error"]["message"]
