"""The vendors' own SDKs for JavaScript, unchanged, in all dialects: thinking, text and a call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reverie.testing import Script, ScriptedEngine
from reverie.testing.script import ToolCall
from tests.contract.node import FOLDER, node_modules, output_of
from tests.harness import Gateway

__all__ = ["node_modules"]
pytestmark = pytest.mark.integration


@pytest.mark.parametrize("client", ["chat", "responses", "messages", "ai"])
async def test_a_stream_is_what_was_sent(
    node_modules: Path, engine: ScriptedEngine, gateway: Gateway, client: str
) -> None:
    engine.script = Script(
        reasoning=("Let me ", "think."),
        tokens=("I'll ", "look."),
        tool_calls=[ToolCall(name="get_weather", arguments=('{"city":', ' "Paris"}'))],
    )
    read = json.loads(await output_of("node", FOLDER / "clients.mjs", client, gateway.url))
    assert (read["text"], read["calls"]) == ("I'll look.", [{"city": "Paris"}])
    assert read["output_tokens"] > 4
    if client != "chat":  # whose helper doesn't know reasoning
        assert read["reasoning"] == "Let me think."
