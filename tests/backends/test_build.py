"""What stands behind the models of a configuration."""

from __future__ import annotations

import pytest

from reverie.testing import ScriptedEngine
from tests.harness import StartGateway, chat


async def test_a_backends_key_comes_from_the_environment_that_the_application_was_given(
    engine: ScriptedEngine, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "of this process")
    gateway = await start_gateway(
        engine, environ={"ENGINE_KEY": "given"}, backend={"api_key_env": "ENGINE_KEY"}
    )
    assert (await gateway.post(chat()))[0] == 200
    assert engine.requests[0].headers["authorization"] == "Bearer given"
