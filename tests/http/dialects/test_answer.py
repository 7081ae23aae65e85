"""What holds for the whole answers of every dialect."""

from __future__ import annotations

import json
from typing import Any

from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, Usage
from reverie.http.dialects.base import Asked, Dialect, Encoder
from reverie.request import GenerateRequest

USAGE = Usage(prompt_tokens=1, completion_tokens=1)


def encoder(dialect: Dialect) -> Encoder:
    return dialect.encoder(
        Asked(GenerateRequest(model="m", messages=[], include_usage=True)),
        id="chatcmpl-1",
        model="m",
        created=7,
    )


def test_estimated_usage_says_so(dialect: Dialect) -> None:
    def usage(counted: Usage) -> dict[str, Any]:
        answer = json.loads(encoder(dialect).answer([Delta("a")], Finish("stop"), counted))
        sent: dict[str, Any] = answer["usage"]
        return sent

    assert "estimated" not in usage(USAGE)
    assert usage(Usage(0, 5, estimated=True))["estimated"] is True


def test_a_whole_answer_carries_all_logprobs(dialect: Dialect) -> None:
    deltas = [Delta(text, logprobs=(TokenLogprob(text, -1.0),)) for text in "ab"]
    answer = json.loads(encoder(dialect).answer(deltas, Finish("stop"), USAGE))
    tokens = [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]]
    assert tokens == ["a", "b"]


def test_text_beside_tool_calls_is_kept(dialect: Dialect) -> None:
    deltas = [Delta("Wait."), Delta(tool_calls=(ToolCallDelta(0, "c1", "f", "{}"),))]
    answer = json.loads(encoder(dialect).answer(deltas, Finish("tool_calls"), USAGE))
    assert answer["choices"][0]["message"]["content"] == "Wait."
