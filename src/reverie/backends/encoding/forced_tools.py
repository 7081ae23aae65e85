"""Required tool calls on llama.cpp.

With ``tool_choice`` ``required`` or a named function, llama.cpp only *allows* the call; a small
model rambles instead. So the engine is asked for the text ``{"name": NAME, "arguments": {…}}``,
constrained by a JSON Schema, and that text is rewritten into a tool call as it streams. The tools
are still sent, so that the chat template renders them.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

from reverie.events import Delta, Event, Finish, ToolCallDelta
from reverie.request import GenerateRequest

_WHITESPACE = " \t\r\n"

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*', re.ASCII | re.DOTALL
)


def is_forced(request: GenerateRequest) -> bool:
    """True if the answer must be a tool call."""
    return bool(request.tools) and request.tool_choice not in (None, "auto", "none")


def parameters(request: GenerateRequest) -> list[tuple[dict[str, Any], str]]:
    """The JSON Schemas of the functions that may be called, each with its path in the request."""
    return [
        (_parameters(function), f"tools.{index}.function.parameters")
        for index, function in _eligible(request)
    ]


def schema(request: GenerateRequest) -> dict[str, Any]:
    """The JSON Schema of the text that calls the named function, or any."""
    return _schema([function for _, function in _eligible(request)])


def response_format(request: GenerateRequest) -> dict[str, Any] | None:
    """The format of the engine's text: the call's, or the one that was asked for."""
    if not is_forced(request):
        return request.response_format
    return {"type": "json_schema", "json_schema": {"name": "call", "schema": schema(request)}}


def _eligible(request: GenerateRequest) -> list[tuple[int, dict[str, Any]]]:
    functions = [(index, tool["function"]) for index, tool in enumerate(request.tools or ())]
    if isinstance(request.tool_choice, dict):
        name = request.tool_choice["function"]["name"]
        functions = [(index, one) for index, one in functions if one["name"] == name]
    return functions


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    return function.get("parameters") or {"type": "object"}


def _schema(functions: list[dict[str, Any]]) -> dict[str, Any]:
    """A call of any of the functions. Each one's parameters lie under ``$defs``."""
    return {
        "$defs": {
            str(index): _rebased(_without_id(_parameters(function)), index)
            for index, function in enumerate(functions)
        },
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    "arguments": {"$ref": f"#/$defs/{index}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for index, function in enumerate(functions)
        ],
    }


def _without_id(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without an id, so that within another schema its references start at that root."""
    return {key: value for key, value in schema.items() if key not in ("$id", "id")}


def _rebased(schema: Any, index: int) -> Any:
    """The schema with its references ``#…`` turned into ``#/$defs/INDEX…``."""
    if isinstance(schema, list):
        return [_rebased(item, index) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#/$defs/{index}{value[1:]}"
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _rebased(value, index)
        for key, value in schema.items()
    }


class ForcedCall:
    """Rewrites the deltas of one constrained answer into a tool call. Sans-IO.

    Rule: the last ``}`` closes the wrapping object. Which one is last is known only at the end, so
    a ``}`` and the whitespace around it are held back until something follows.
    """

    __slots__ = ("_held", "_named")

    def __init__(self) -> None:
        self._named = False  # the call has begun: its name was sent
        self._held = ""

    def rewrite(self, delta: Delta) -> Delta | None:
        """The delta with its text turned into a piece of the tool call; None if nothing is left."""
        pieces = delta.tool_calls
        if delta.text:
            piece = self._arguments(delta.text) if self._named else self._name(delta.text)
            pieces = (*pieces, piece) if piece is not None else pieces
        if not (pieces or delta.reasoning or delta.logprobs or delta.refusal):
            return None
        return Delta("", delta.reasoning, pieces, delta.logprobs, delta.tokens, delta.refusal)

    def end(self, events: list[Event]) -> list[Event]:
        """Rewrite the answer's last events.

        An answer that never became a call, since the engine ignored the schema, stays text.
        """
        rewritten: list[Event] = []
        for event in events:
            if isinstance(event, Delta):
                delta = self.rewrite(event)
                if delta is not None:
                    rewritten.append(delta)
            elif not isinstance(event, Finish):
                rewritten.append(event)
            elif self._named:
                rewritten.append(Finish("tool_calls") if event.reason == "stop" else event)
            else:
                if self._held and event.reason != "length":
                    rewritten.append(Delta(self._held))
                rewritten.append(event)
        return rewritten

    def _name(self, text: str) -> ToolCallDelta | None:
        self._held += text
        head = _HEAD.match(self._held)
        if head is None or head.end() == len(self._held):  # whitespace may still follow
            return None
        rest = self._held[head.end() :]
        self._named = True
        self._held = ""
        return ToolCallDelta(
            0, f"call_{secrets.token_hex(12)}", json.loads(head[1], strict=False), self._cut(rest)
        )

    def _arguments(self, text: str) -> ToolCallDelta | None:
        arguments = self._cut(text)
        return ToolCallDelta(0, arguments=arguments) if arguments else None

    def _cut(self, text: str) -> str:
        """The text that can be sent on. A ``}`` that may be the last is held back."""
        text = self._held + text
        end = len(text.rstrip(_WHITESPACE))
        if text[end - 1 : end] == "}":
            end = len(text[: end - 1].rstrip(_WHITESPACE))
        self._held = text[end:]
        return text[:end]
