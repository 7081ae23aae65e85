"""``/v1/messages``: Anthropic's dialect.

An answer is a list of content blocks, each of one kind: thinking, text, tool calls. A stream opens
a block, gives its pieces and closes it before it opens the next; clients tell the events apart by
their names (``event:``), not by their data.

Source: the types and the stream's state machine of anthropic-sdk-python 0.121.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from reverie.errors import ContextLengthExceeded, Overloaded, ReverieError
from reverie.events import Delta, Finish, ToolCallDelta, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.dialects.answer import arguments_object, assemble
from reverie.http.dialects.base import Asked, Encoder
from reverie.http.dialects.chunks import encode
from reverie.http.dialects.errors import v1_status
from reverie.http.dialects.framing import EVENTS
from reverie.http.dialects.split import MAX_CHARACTERS, split
from reverie.http.request.lenient import ignored_header
from reverie.http.request.messages import parse
from reverie.ids import random_id

PING = b'event: ping\ndata: {"type":"ping"}\n\n'

_STATUS_OVERLOADED = 529
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    _STATUS_OVERLOADED: "overloaded_error",
}
"""By status. Others are the request's fault below 500, and ``api_error`` from there on."""
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class Messages:
    name = "messages"
    framing = EVENTS
    ping = PING
    id_headers = (b"x-request-id", b"request-id")

    def parse(self, body: bytes) -> Asked:
        request, ignored = parse(body)
        return Asked(request, told=ignored_header(ignored))

    def new_id(self, claim: Claim | None) -> str:
        return f"msg_{random_id()}"

    def status(self, error: ReverieError) -> int:
        if isinstance(error, Overloaded):
            return _STATUS_OVERLOADED
        return v1_status(error)

    def error_body(self, error: ReverieError) -> bytes:
        return msgspec.json.encode(_error_object(error))

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> Encoder:
        return MessagesEncoder(id=id, model=model, prompt_tokens=asked.request.likely_prompt)


MESSAGES = Messages()


def _error_object(error: ReverieError) -> dict[str, Any]:
    status = MESSAGES.status(error)
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": _message(error)}}


def usage_object(usage: Usage) -> dict[str, int]:
    """Anthropic's ``usage``, whose ``input_tokens`` exclude those that came from a cache."""
    return {
        "input_tokens": max(0, usage.prompt_tokens - usage.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


class MessagesEncoder:
    """Writes one answer.

    Blocks can't overlap, and engines may give the pieces of parallel calls in turns. So a call's
    block stays open to the end once it has begun; what isn't a piece of it waits until then.

    Args:
        prompt_tokens: what is known of the prompt's size before the answer; the end has the true
            one.
    """

    def __init__(self, *, id: str, model: str, prompt_tokens: int) -> None:
        self._envelope = {"id": id, "type": "message", "role": "assistant", "model": model}
        self._prompt_tokens = prompt_tokens
        self._began = False
        self._index = -1  # of the block that was opened last
        self._open: str | int | None = None  # a kind of text, or a call's index
        self._text_head = b""  # of a piece of the text that is open
        self._waiting: list[Delta] = []

    def batch(self, deltas: Sequence[Delta]) -> bytes:
        parts: list[bytes] = []
        for delta in deltas:
            text = delta.text
            more = delta.reasoning or delta.tool_calls or delta.logprobs or delta.refusal
            if self._open == "text" and not more and len(text) <= MAX_CHARACTERS:
                if text:
                    parts += (self._text_head, encode(text), b"}}\n\n")
                continue
            for piece in split(delta):
                self._piece(piece, parts)
        return b"".join(parts)

    def end(self, finish: Finish, usage: Usage) -> bytes:
        parts: list[bytes] = []
        self._begin(parts)
        self._close(parts)
        waiting, self._waiting = self._waiting, []
        for piece in sorted(waiting, key=_place):
            self._write(piece, parts)
        self._close(parts)
        parts.append(_event("message_delta", delta=_end(finish), usage=usage_object(usage)))
        parts.append(_event("message_stop"))
        return b"".join(parts)

    def error(self, error: ReverieError) -> bytes:
        return b"event: error\ndata: %b\n\n" % encode(_error_object(error))

    def answer(self, deltas: Sequence[Delta], finish: Finish, usage: Usage) -> bytes:
        content: list[dict[str, Any]] = []
        if thinking := "".join([delta.reasoning for delta in deltas]):
            content.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if text := "".join([delta.text + delta.refusal for delta in deltas]):
            content.append({"type": "text", "text": text})
        for call in assemble(deltas):
            arguments = arguments_object(call["function"]["arguments"])
            name = call["function"]["name"]
            content.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
        return msgspec.json.encode(
            {
                **self._envelope,
                "content": content,
                **_end(finish),
                "usage": usage_object(usage),
            }
        )

    def _begin(self, parts: list[bytes]) -> None:
        if self._began:
            return
        self._began = True
        message: dict[str, Any] = {
            **self._envelope,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(Usage(self._prompt_tokens, 0)),
        }
        parts.append(_event("message_start", message=message))

    def _piece(self, piece: Delta, parts: list[bytes]) -> None:
        """Write a piece that is of one kind alone, unless a call's block has to end first."""
        self._begin(parts)
        if isinstance(self._open, int) and _place(piece) != self._open:
            self._waiting.append(piece)
        else:
            self._write(piece, parts)

    def _write(self, piece: Delta, parts: list[bytes]) -> None:
        if piece.reasoning:
            self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""}, parts)
            self._delta({"type": "thinking_delta", "thinking": piece.reasoning}, parts)
        if text := piece.text + piece.refusal:
            self._enter("text", {"type": "text", "text": ""}, parts)
            self._delta({"type": "text_delta", "text": text}, parts)
        for call in piece.tool_calls:
            self._call(call, parts)

    def _call(self, call: ToolCallDelta, parts: list[bytes]) -> None:
        block = {"type": "tool_use", "id": call.id or "", "name": call.name or "", "input": {}}
        self._enter(call.index, block, parts)
        if call.arguments:
            self._delta({"type": "input_json_delta", "partial_json": call.arguments}, parts)

    def _enter(self, kind: str | int, block: dict[str, Any], parts: list[bytes]) -> None:
        """Open a block of this kind unless it is the open one."""
        if self._open == kind:
            return
        self._close(parts)
        self._open = kind
        self._index += 1
        self._text_head = _TEXT_HEAD % self._index
        parts.append(_event("content_block_start", index=self._index, content_block=block))

    def _close(self, parts: list[bytes]) -> None:
        if self._open is None:
            return
        if self._open == "thinking":
            self._delta({"type": "signature_delta", "signature": ""}, parts)
        self._open = None
        parts.append(_event("content_block_stop", index=self._index))

    def _delta(self, delta: dict[str, Any], parts: list[bytes]) -> None:
        parts.append(_event("content_block_delta", index=self._index, delta=delta))


def _message(error: ReverieError) -> str:
    """An error's words; where the prompt is too long, those that Anthropic's clients look for."""
    if isinstance(error, ContextLengthExceeded) and error.prompt_tokens and error.context_tokens:
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.context_tokens} maximum"
    return error.message


def _end(finish: Finish) -> dict[str, str | None]:
    """Why the answer ended, and which stop string ended it."""
    if finish.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop}
    return {"stop_reason": _STOP_REASONS.get(finish.reason, "end_turn"), "stop_sequence": None}


_TEXT_HEAD = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":'
)


def _place(piece: Delta) -> int:
    """Where a piece stands among those that wait: its call's index, or before all calls."""
    return piece.tool_calls[0].index if piece.tool_calls else -1


def _event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **fields}))
