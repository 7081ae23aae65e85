"""Events → JSON-ready objects: the parts that chunks and whole answers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from reverie.events import Delta, Finish, TokenLogprob, TopLogprob, Usage
from reverie.http.dialects.wire import (
    LLMAnswerMessage,
    LLMAnswerToolCall,
    LLMTokenLogprob,
    LLMTokenUsage,
    LLMTopLogprob,
)

_LOWEST_LOGPROB = -9999.0
"""OpenAI's value for minus infinity, which JSON can't express."""


def usage_object(usage: Usage) -> LLMTokenUsage:
    counted: LLMTokenUsage = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {**usage.prompt_details, "cached_tokens": usage.cached_tokens},
    }
    if usage.completion_details:
        counted["completion_tokens_details"] = usage.completion_details
    if usage.estimated:
        counted["estimated"] = True
    return counted


def logprob_object(entry: TokenLogprob) -> LLMTokenLogprob:
    return {
        **_top_object(entry),
        "top_logprobs": [_top_object(other) for other in entry.top_logprobs],
    }


def _top_object(entry: TokenLogprob | TopLogprob) -> LLMTopLogprob:
    # Written so that NaN, which is neither, becomes the lowest too.
    value = min(entry.logprob, 0.0) if entry.logprob >= _LOWEST_LOGPROB else _LOWEST_LOGPROB
    plain: LLMTopLogprob = {"token": entry.token, "logprob": value}
    if entry.bytes is not None:
        plain["bytes"] = entry.bytes
    return plain


def whole_answer(
    envelope: dict[str, Any],
    choices: Sequence[tuple[Sequence[Delta], Finish]],
    usage: Usage,
    *,
    no_text: str | None,
) -> bytes:
    """The JSON body of an answer that isn't streamed.

    Args:
        envelope: ``id``, ``created`` and ``model``.
        no_text: the content beside tool calls, where the model wrote no text.
    """
    return msgspec.json.encode(
        {
            **envelope,
            "object": "chat.completion",
            "choices": [
                _choice(index, deltas, finish, no_text)
                for index, (deltas, finish) in enumerate(choices)
            ],
            "usage": usage_object(usage),
        }
    )


def _choice(
    index: int, deltas: Sequence[Delta], finish: Finish, no_text: str | None
) -> dict[str, Any]:
    text = "".join([delta.text for delta in deltas])
    reasoning = "".join([delta.reasoning for delta in deltas])
    tool_calls = assemble(deltas)
    message: LLMAnswerMessage = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if refusal := "".join([delta.refusal for delta in deltas]):
        message["refusal"] = refusal
    if tool_calls:
        message["content"] = text or no_text
        message["tool_calls"] = tool_calls
    choice: dict[str, Any] = {"index": index, "message": message, "finish_reason": finish.reason}
    logprobs = [logprob_object(entry) for delta in deltas for entry in delta.logprobs]
    if logprobs:
        choice["logprobs"] = {"content": logprobs}
    return choice


def assemble(deltas: Sequence[Delta]) -> list[LLMAnswerToolCall]:
    """Join the pieces of each tool call, ordered by index."""
    pieces: dict[int, list[str]] = {}
    ids: dict[int, str] = {}
    names: dict[int, str] = {}
    for delta in deltas:
        for piece in delta.tool_calls:
            pieces.setdefault(piece.index, []).append(piece.arguments)
            if piece.id:
                ids.setdefault(piece.index, piece.id)
            if piece.name:
                names.setdefault(piece.index, piece.name)
    return [
        {
            "id": ids.get(index, ""),
            "type": "function",
            "function": {"name": names.get(index, ""), "arguments": "".join(pieces[index])},
        }
        for index in sorted(pieces)
    ]


def arguments_object(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object. A model that was cut may have left them broken."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return {"INVALID_JSON": arguments} if arguments.strip() else {}
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}
