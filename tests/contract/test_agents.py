"""Codex and Claude Code, unchanged, over an engine that calls their tools by script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from reverie.testing.script import ToolCall
from tests.contract.node import node_modules, output_of
from tests.docs.snippets import run_of
from tests.harness import Gateway, StartGateway

__all__ = ["node_modules"]
pytestmark = pytest.mark.integration

KEY = "a-key-of-an-agent"
ADDRESS = "http://127.0.0.1:8000"
QUESTION = "What does secret.txt say?"


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    model = {"aliases": ["my-model"]}  # as the page calls it
    return await start_gateway(engine, model=model, environ={"REVERIE_API_KEYS": KEY})


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a file in it, which only somebody who runs a command can read."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "secret.txt").write_text("the cat sleeps\n")
    return folder


def calling(tool: str, **arguments: Any) -> list[Script]:
    """An engine's answers: a call of a tool, then what it makes of the result."""
    whole = json.dumps(arguments)
    call = ToolCall(name=tool, arguments=(whole[:5], whole[5:]))
    return [
        Script(tokens=("I'll ", "look."), tool_calls=[call]),
        Script(tokens=("It says ", "that all is well.")),
    ]


def results(engine: ScriptedEngine) -> list[str]:
    """What tools gave, as the engine was told with its last request."""
    body = engine.requests[-1].body
    assert isinstance(body, dict)
    return [str(message["content"]) for message in body["messages"] if message["role"] == "tool"]


async def test_codex_runs_a_command_and_reads_its_result(
    node_modules: Path, engine: ScriptedEngine, gateway: Gateway, work: Path, tmp_path: Path
) -> None:
    engine.scripts += calling("exec_command", cmd="cat secret.txt")
    home = tmp_path / "codex"
    home.mkdir()
    (config,) = [
        block for block in run_of("clients.md") if block.section == "Codex" and block.word("file")
    ]
    assert f"{ADDRESS}/v1" in config.text
    (home / "config.toml").write_text(config.text.replace(ADDRESS, gateway.url))
    written = await output_of(
        *(node_modules / ".bin" / "codex", "exec", "--json", "--skip-git-repo-check"),
        *("--sandbox", "danger-full-access", QUESTION),
        env={"CODEX_HOME": str(home), "REVERIE_API_KEY": KEY},
        cwd=work,
    )
    events = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    said = [event["item"]["text"] for event in events if "text" in event.get("item", {})]
    assert said == ["I'll look.", "It says that all is well."]
    (usage,) = [event["usage"] for event in events if event["type"] == "turn.completed"]
    assert usage["output_tokens"] > 0
    (result,) = results(engine)
    assert "the cat sleeps" in result


async def test_claude_code_runs_a_command_and_reads_its_result(
    node_modules: Path, engine: ScriptedEngine, gateway: Gateway, work: Path, tmp_path: Path
) -> None:
    engine.scripts += calling("Bash", command="cat secret.txt", description="Read it")
    written = await output_of(
        *(node_modules / ".bin" / "claude", "--print", QUESTION, "--model", "m"),
        *("--output-format", "json", "--dangerously-skip-permissions"),
        env={
            "HOME": str(tmp_path),
            "ANTHROPIC_BASE_URL": gateway.url,
            "ANTHROPIC_AUTH_TOKEN": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",  # else it refuses to run as root
        },
        cwd=work,
    )
    told = json.loads(written)
    assert (told["result"], told["num_turns"]) == ("It says that all is well.", 2)
    (result,) = results(engine)
    assert "the cat sleeps" in result
