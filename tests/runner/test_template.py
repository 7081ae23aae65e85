"""What the engine makes of a chat template that was taught tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from reverie.models.gguf import read_header
from reverie.runner.supervisor import Runner
from reverie.runner.template import teach_tools

RenameInModel = Callable[[str, str], Path]
StartRunner = Callable[..., Awaitable[Runner]]
Ask = Callable[..., Awaitable[tuple[int, Any]]]

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather somewhere",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def call(name: str, arguments: str, identifier: str = "c1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": identifier, "type": "function", "function": function}


def result(content: Any, identifier: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identifier, "content": content}


def turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def test_a_template_that_renders_tools_is_left_alone() -> None:
    own = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0]['content'] }}"
    assert teach_tools(own) == own


GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


async def test_a_template_that_refuses_system_messages_is_taught_too(
    start_runner: StartRunner, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverie.runner.supervisor.teach_tools", lambda _: teach_tools(GEMMA))
    runner = await start_runner()
    calls = {"role": "assistant", "content": None, "tool_calls": [call("f", "{}"), call("g", "{}")]}
    conversation = [SYSTEM, USER, calls, result("42"), result("43", "c2")]
    prompt = await _rendering(runner, ask, {"messages": conversation, "tools": TOOLS})
    assert "# Tools" in prompt
    assert "Be brief.\nHi<end_of_turn>\n<start_of_turn>model\n<tool_call>" in prompt
    assert "43\n</tool_response><end_of_turn>\n<start_of_turn>model\n" in prompt


async def _rendering(runner: Runner, ask: Ask, request: dict[str, Any]) -> str:
    await runner.wait_ready(60)
    status, answer = await ask(runner, "/apply-template", request)
    assert status == 200, answer
    return str(answer["prompt"])


async def test_a_prompt_without_tools_is_the_models_own(
    start_runner: StartRunner, ask: Ask, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[dict[str, Any]] = [
        {"messages": [USER]},
        {"messages": [SYSTEM, USER, {"role": "assistant", "content": " A "}, USER]},
        {"messages": [{"role": "developer", "content": "Be kind."}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]},
        {
            "messages": [USER, {"role": "assistant", "content": "I am"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ]
    taught = await start_runner()
    with monkeypatch.context() as patch:
        patch.setattr("reverie.runner.supervisor.teach_tools", lambda own: own)
        plain = await start_runner()
    for request in requests:
        assert await _rendering(taught, ask, request) == await _rendering(plain, ask, request)


async def test_tools_and_their_results_reach_the_prompt(
    start_runner: StartRunner, ask: Ask
) -> None:
    runner = await start_runner()

    async def render(*messages: dict[str, Any], tools: Any = TOOLS) -> str:
        request = {"messages": list(messages), **({"tools": tools} if tools else {})}
        return await _rendering(runner, ask, request)

    await runner.wait_ready(60)
    _, props = await ask(runner, "/props")
    assert props["chat_template_caps"]["supports_tools"]
    assert props["chat_template_caps"]["supports_tool_calls"]

    prompt = await render(SYSTEM, USER)
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    assert '{"type": "function", "function": {"name": "get_weather"' in prompt
    assert prompt.endswith(turn("user", "Hi") + "<|im_start|>assistant\n")

    developer = {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert await render(developer, parts) == prompt

    calls = [call("f", '{"a": 1}'), call("g", "{}", "c2")]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    prompt = await render(USER, asked, result("42"), result([{"type": "text", "text": "43"}], "c2"))
    assert (
        turn(
            "assistant",
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
        )
        + turn(
            "user",
            "<tool_response>\n42\n</tool_response>\n<tool_response>\n43\n</tool_response>",
        )
        in prompt
    )

    spoken = {"role": "assistant", "content": "Let me see.", "tool_calls": calls[:1]}
    prompt = await render(USER, spoken, result("42"), tools=None)
    assert "# Tools" not in prompt
    assert "Let me see.\n<tool_call>\n" in prompt

    prompt = await render(result("42"), SYSTEM, USER)
    assert prompt.index("42") < prompt.index("Be brief.")


async def test_a_model_without_a_template_gets_chatml_with_tools(
    start_runner: StartRunner, ask: Ask, rename_in_model: RenameInModel
) -> None:
    nameless = rename_in_model("tokenizer.chat_template", "tokenizer.chat_templote")
    assert read_header(nameless).chat_template is None
    runner = await start_runner(nameless)
    assert await _rendering(runner, ask, {"messages": [USER]}) == (
        turn("user", "Hi") + "<|im_start|>assistant\n"
    )
    assert "get_weather" in await _rendering(runner, ask, {"messages": [USER], "tools": TOOLS})
