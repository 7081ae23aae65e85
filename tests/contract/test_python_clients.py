"""Client libraries of the field for Python, unchanged, each in its own environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reverie.testing import Script, ScriptedEngine
from reverie.testing.script import ToolCall
from reverie.testing.tasks import SIZE
from tests.contract.node import output_of
from tests.contract.python_clients import FOLDER, python
from tests.harness import Gateway, StartGateway

__all__ = ["python"]
pytestmark = pytest.mark.integration

CALL = Script(
    tokens=("I'll ", "look."),
    tool_calls=[ToolCall(name="get_weather", arguments=('{"city":', ' "Paris"}'))],
)


async def ask(python: Path, client: str, gateway: Gateway) -> object:
    written = await output_of(python, FOLDER / "clients.py", client, gateway.url)
    return json.loads(written.splitlines()[-1])


async def test_openai_s_agents_call_a_tool_and_go_on(
    python: Path, engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.scripts += [CALL, Script(tokens=("It is ", "sunny."))]
    told = await ask(python, "agents", gateway)
    assert told == {"text": "It is sunny.", "asked": ["Paris"], "events": True}


async def test_langchain_reads_both_of_openai_s_dialects(
    python: Path, engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = CALL
    told = await ask(python, "langchain", gateway)
    assert isinstance(told, dict)
    for name in ("chat", "responses"):
        assert (told[name]["text"], told[name]["asked"]) == ("I'll look.", ["Paris"])
        assert told[name]["tokens"] > 2


async def test_llama_index_generates_and_embeds(
    python: Path, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    backends = [{"url": engine.url}]
    gateway = await start_gateway(
        models=[
            {"name": "m", "aliases": ["gpt-4o"], "backends": backends},
            {
                "name": "e",
                "aliases": ["text-embedding-ada-002"],
                "task": "embed",
                "backends": backends,
            },
        ]
    )
    told = await ask(python, "llama_index", gateway)
    assert told == {"text": "Hello world", "numbers": SIZE}
