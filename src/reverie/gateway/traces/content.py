"""Prompts and answers as the conventions write them, where the operator has them sent.

Rule: an attribute has at most ``MAX_CHARACTERS`` of text. Of a longer prompt its end is kept, since
earlier turns are in earlier traces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec

from reverie.events import Delta, Event
from reverie.gateway.record import RequestRecord
from reverie.request import GenerateRequest

MAX_CHARACTERS = 64 * 1024
_CUT = "[…]"

Part = dict[str, Any]


class ContentRecord(RequestRecord):
    """A record that keeps the answer, too, where content is sent."""

    __slots__ = ("deltas", "parts")

    def __init__(self, id: str, route: str, name: str = "request") -> None:
        super().__init__(id, route, name)
        self.deltas: list[Delta] = []
        self.parts: list[ContentRecord] = []
        """Those of the answer's choices, if there are several."""

    def another(self, name: str) -> Self:
        other = super().another(name)
        if name == "choice":
            self.parts.append(other)
        return other

    def saw(self, batch: Sequence[Event]) -> None:
        super().saw(batch)
        self.deltas += [event for event in batch if isinstance(event, Delta)]


def input_messages(request: GenerateRequest) -> str:
    """``gen_ai.input.messages``, as JSON; empty for a prompt of tokens."""
    if isinstance(request.prompt, tuple):
        return ""
    messages: list[dict[str, Any]]
    if request.prompt is not None:
        messages = [{"role": "user", "parts": [_text(request.prompt)]}]
    else:
        messages = [_message(message) for message in request.messages]
    left = MAX_CHARACTERS
    kept = []
    for message in reversed(messages):
        if left <= 0:
            break
        kept.append(message)
        for part in reversed(message["parts"]):
            left -= _shorten(part, max(0, left), keep_end=True)
    return _json(kept[::-1])


def output_messages(choices: Iterable[tuple[Sequence[Delta], str]], *, with_reasons: bool) -> str:
    """``gen_ai.output.messages``, as JSON: of each choice what came, and why it ended."""
    messages = []
    left = MAX_CHARACTERS
    for deltas, reason in choices:
        parts = _parts_of(deltas)
        for part in parts:
            left -= _shorten(part, max(0, left), keep_end=False)
        message: dict[str, Any] = {"role": "assistant", "parts": parts}
        if with_reasons:
            message["finish_reason"] = reason
        messages.append(message)
    return _json(messages)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    role, content = message.get("role", "user"), message.get("content")
    parts: list[Part] = []
    if reasoning := message.get("reasoning_content"):
        parts.append({"type": "reasoning", "content": reasoning})
    if role == "tool":
        id = message.get("tool_call_id")
        parts.append({"type": "tool_call_response", "id": id, "response": _plain(content)})
    elif isinstance(content, str):
        parts.append(_text(content))
    elif content is not None:
        parts += map(_content_part, content)
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        parts.append(_tool_call(call.get("id"), function.get("name"), function.get("arguments")))
    return {"role": role, "parts": parts}


def _plain(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text", "") for part in content)


def _content_part(part: Mapping[str, Any]) -> Part:
    """A part of a message. Of an image only where it is: its bytes would fill a trace."""
    if "image_url" not in part:
        return _text(part.get("text", ""))
    image = part["image_url"]
    url = image.get("url", "") if isinstance(image, Mapping) else image
    if not url.startswith("data:"):
        return {"type": "uri", "modality": "image", "uri": url}
    return {
        "type": "blob",
        "modality": "image",
        "mime_type": url[5:].partition(";")[0][:100],
        "content": "",
    }


def _parts_of(deltas: Sequence[Delta]) -> list[Part]:
    parts: list[Part] = []
    if reasoning := "".join(delta.reasoning for delta in deltas):
        parts.append({"type": "reasoning", "content": reasoning})
    if text := "".join(delta.text or delta.refusal for delta in deltas):
        parts.append(_text(text))
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.tool_calls:
            known = calls.setdefault(call.index, ["", "", ""])
            for position, piece in enumerate((call.id, call.name, call.arguments)):
                known[position] += piece or ""
    parts += [_tool_call(*calls[index]) for index in sorted(calls)]
    return parts


def _text(text: str) -> Part:
    return {"type": "text", "content": text}


def _tool_call(id: str | None, name: str | None, arguments: Any) -> Part:
    return {"type": "tool_call", "id": id, "name": name or "", "arguments": arguments}


def _shorten(part: Part, most: int, *, keep_end: bool) -> int:
    """Cut the longest text of a part to so many characters; give how many it has."""
    for key in ("content", "response", "arguments", "uri"):
        text = part.get(key)
        if isinstance(text, str):
            if len(text) > most:
                part[key] = _CUT + text[-most:] * bool(most) if keep_end else text[:most] + _CUT
            return min(len(text), most)
    return 0


def _json(messages: Sequence[Any]) -> str:
    return msgspec.json.encode(messages).decode() if messages else ""
