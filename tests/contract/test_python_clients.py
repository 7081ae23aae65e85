"""Client libraries of the field for Python, unchanged, each in its own environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reverie.testing import Script, ScriptedEngine
from reverie.testing.script import ToolCall
from reverie.testing.tasks import SIZE
from tests.contract.node import output_of
from tests.harness import Gateway, StartGateway

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parent / "python"
CALL = Script(
    tokens=("I'll ", "look."),
    tool_calls=[ToolCall(name="get_weather", arguments=('{"city":', ' "Paris"}'))],
)


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of an environment that has the clients; made once."""
    home, wanted = FOLDER / ".venv", FOLDER / "requirements.txt"
    made = home / "made.txt"
    if not (made.exists() and made.read_text() == wanted.read_text()):
        for command in (
            [sys.executable, "-m", "venv", "--clear", home],
            [home / "bin" / "pip", "install", "--quiet", "-r", wanted],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
            if done.returncode:
                pytest.skip(f"the packages can't be had: {done.stderr}"[-500:])
        made.write_text(wanted.read_text())
    return home / "bin" / "python"


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
