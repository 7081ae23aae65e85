"""Which models are served, by all their names."""

from __future__ import annotations

import pytest

from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway


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


async def test_a_model_that_is_not_here_is_404(gateway: Gateway) -> None:
    status, answer, _ = await gateway.get("/v1/models/nope")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert (await gateway.get("/v1/models/"))[1] == (await gateway.get("/v1/models"))[1]
