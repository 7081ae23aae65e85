"""Which models are served, by all their names."""

from __future__ import annotations

from decimal import Decimal

import pytest

from reverie.money import format_amount
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/llm/models"])
async def test_models_are_listed_by_name_and_alias(gateway: Gateway, path: str) -> None:
    status, listed, _ = await gateway.get(path)
    assert (status, listed["object"]) == (200, "list")
    assert [entry["id"] for entry in listed["data"]] == ["m", "alias"]
    for entry in listed["data"]:
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
        assert entry["loaded"] is True
        assert entry["task"] == "generate"
        assert (await gateway.get(f"{path}/{entry['id']}"))[:2] == (200, entry)


async def test_a_model_whose_name_holds_slashes_is_shown(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    models = [{"name": "owner/model", "backends": [{"url": engine.url}]}]
    gateway = await start_gateway(models=models)
    status, entry, _ = await gateway.get("/v1/models/owner/model")
    assert (status, entry["id"]) == (200, "owner/model")


async def test_what_a_model_takes_costs_and_defaults_to_is_told(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    models = [
        {
            "name": "priced",
            "aliases": ["alias"],
            "backends": [{"url": engine.url, "kind": "vllm", "vision": True}],
            "price": {"input": "0.18USD", "cached": "0.125USD", "output": "12USD"},
            "defaults": {"temperature": 0.5, "top_k": -1, "max_tokens": 9},
        },
        {"name": "plain", "backends": [{"url": engine.url}]},
        {"name": "vectors", "task": "embed", "backends": [{"url": engine.url}]},
    ]
    gateway = await start_gateway(models=models)
    priced, alias, plain, vectors = (await gateway.get("/v1/models"))[1]["data"]
    for entry in (priced, alias):
        assert entry["input_modalities"] == ["text", "image"]
        assert entry["pricing"] == {
            "currency": "USD", "input": "0.18", "cached": "0.125", "output": "12.00",
        }  # fmt: skip
        assert entry["defaults"] == {"temperature": 0.5, "top_k": 0, "max_tokens": 9}
    assert (plain["input_modalities"], plain["pricing"], plain["defaults"]) == (["text"], None, {})
    assert vectors["pricing"] is None
    assert not {"input_modalities", "defaults"} & vectors.keys()


async def test_a_price_that_is_told_is_what_an_answer_costs(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    """By the formula of docs/protocol.md."""
    price = {"input": "0.18USD", "cached": "0.125USD", "output": "12.001USD"}
    models = [{"name": "m", "backends": [{"url": engine.url}], "price": price}]
    engine.script = Script(tokens=("a", "b", "c"), prompt_tokens=40, cached_tokens=7)
    gateway = await start_gateway(models=models)
    pricing = (await gateway.get("/v1/models/m"))[1]["pricing"]
    answer = (await gateway.post(chat(), "/v1/chat/completions"))[1]
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == 7
    per_token = {name: int(Decimal(pricing[name]) * 1000) for name in ("input", "cached", "output")}
    nano = (
        (usage["prompt_tokens"] - cached) * per_token["input"]
        + cached * per_token["cached"]
        + usage["completion_tokens"] * per_token["output"]
    )
    await gateway.until(lambda: gateway.app.ledger is not None and gateway.app.ledger.open == 0)
    [cost] = (await gateway.get("/v1/usage"))[1]["today"]["total"]["costs"]
    assert cost == {"currency": "USD", "nano": nano, "formatted": format_amount(nano, "USD")}


async def test_a_model_that_is_not_here_is_404(gateway: Gateway) -> None:
    status, answer, _ = await gateway.get("/v1/models/nope")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert (await gateway.get("/v1/models/"))[1] == (await gateway.get("/v1/models"))[1]
