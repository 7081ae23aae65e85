"""``/v1/responses``: OpenAI's newer dialect, which Codex speaks.

An answer is a list of items: reasoning, a message, function calls. A stream names each item and
each part of it when it begins and when it ends, numbers its events from 0, and ends with the whole
answer.

Source: the types and the stream's state machine of openai-python 3.57.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from reverie.errors import (
    AnswerCancelled,
    ClientError,
    InsufficientQuota,
    RateLimitExceeded,
    ReverieError,
)
from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.connection.stream_writer import PING
from reverie.http.dialects.answer import logprob_object
from reverie.http.dialects.base import Asked, Encoder
from reverie.http.dialects.chat import OPENAI
from reverie.http.dialects.chunks import encode
from reverie.http.dialects.errors import error_object
from reverie.http.dialects.framing import EVENTS
from reverie.http.dialects.split import MAX_CHARACTERS, split
from reverie.http.dialects.wire import LLMTokenLogprob
from reverie.http.request.lenient import ignored_header
from reverie.http.request.responses import parse
from reverie.ids import random_id

_ID = "resp_"
_KEYED = _ID + "k"
"""What an id begins with that holds an ``Idempotency-Key``; others go on with a hex digit."""
_PROOF = 16
"""Bytes of the fingerprint of what was asked, which an id ends with."""

PartKind: TypeAlias = Literal["output_text", "refusal", "reasoning_text", "summary_text"]


class _Names(NamedTuple):
    """How a kind of part is spelt in events."""

    part: bytes
    text: bytes
    position: bytes


_NAMES: dict[PartKind, _Names] = {
    "output_text": _Names(b"content_part", b"output_text", b"content_index"),
    "refusal": _Names(b"content_part", b"refusal", b"content_index"),
    "reasoning_text": _Names(b"content_part", b"reasoning_text", b"content_index"),
    "summary_text": _Names(b"reasoning_summary_part", b"reasoning_summary_text", b"summary_index"),
}


class Responses:
    name = "responses"
    framing = EVENTS
    ping = PING
    id_headers = (b"x-request-id",)

    def parse(self, body: bytes) -> Asked:
        request, ignored, echo, summary, keep = parse(body)
        key = f"{_ID}{random_id()}" if keep else None
        repeated = {"fields": echo, "summary": summary}
        return Asked(request, told=ignored_header(ignored), echo=repeated, key=key)

    def new_id(self, claim: Claim | None) -> str:
        """Where an ``Idempotency-Key`` was sent, the id holds it, and a proof of what was asked."""
        if claim is None:
            return f"{_ID}{random_id()}"
        if claim.key.startswith(_ID) and not claim.key.startswith(_KEYED):
            return claim.key
        proof = (claim.fingerprint or b"")[:_PROOF].hex()
        return _KEYED + base64.urlsafe_b64encode(claim.key.encode()).decode().rstrip("=") + proof

    def status(self, error: ReverieError) -> int:
        return OPENAI.status(error)

    def error_body(self, error: ReverieError) -> bytes:
        named = error_object(error)
        if named["param"] == "messages":
            named["param"] = "input"
        return msgspec.json.encode({"detail": {"msg": error.message}, "error": named})

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> Encoder:
        return ResponsesEncoder(asked, id=id, model=model, created=created)


RESPONSES = Responses()


def place_of(id: str) -> tuple[str, bytes] | None:
    """The key under which the answer with an id is kept, if it is, and the proof of what was asked;
    None if it can't be an id."""
    if not id.startswith(_KEYED):
        return (id, b"") if id.startswith(_ID) else None
    text, digits = id[len(_KEYED) : -2 * _PROOF], id[-2 * _PROOF :]
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode()
        proof = bytes.fromhex(digits)
    except (binascii.Error, ValueError):
        return None
    return (key, proof) if key and len(proof) == _PROOF else None  # spaces are no digits


def usage_object(usage: Usage) -> dict[str, Any]:
    reasoning = usage.completion_details.get("reasoning_tokens", 0)
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class _Part:
    """A part of a message or of reasoning, while it is written."""

    __slots__ = ("kind", "logprobs", "texts")

    def __init__(self, kind: PartKind) -> None:
        self.kind = kind
        self.texts: list[str] = []
        self.logprobs: list[LLMTokenLogprob] = []

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def to_json(self) -> dict[str, Any]:
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        part: dict[str, Any] = {"type": self.kind, "text": self.text}
        if self.kind == "output_text":
            part |= {"annotations": [], "logprobs": self.logprobs}
        return part


class _TextItem:
    """A message, or reasoning."""

    __slots__ = ("id", "index", "parts", "reasons", "status")

    def __init__(self, index: int, answer: str, *, reasons: bool) -> None:
        self.index = index
        self.id = f"{'rs' if reasons else 'msg'}_{answer}_{index}"
        self.reasons = reasons
        self.status = "in_progress"
        self.parts: list[_Part] = []

    def to_json(self) -> dict[str, Any]:
        content = [part.to_json() for part in self.parts if part.kind != "summary_text"]
        about: dict[str, Any] = {"type": "message", "role": "assistant"}
        if self.reasons:
            summary = [part.to_json() for part in self.parts if part.kind == "summary_text"]
            about = {"type": "reasoning", "summary": summary}
        return {"id": self.id, **about, "content": content, "status": self.status}


class _CallItem:
    """A function call."""

    __slots__ = ("call_id", "id", "index", "name", "pieces", "status")

    def __init__(self, index: int, answer: str, call: ToolCallDelta) -> None:
        self.index = index
        self.id = f"fc_{answer}_{index}"
        self.call_id = call.id or self.id
        self.name = call.name or ""
        self.status = "in_progress"
        self.pieces: list[str] = []

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "".join(self.pieces),
            "status": self.status,
        }


class ResponsesEncoder:
    """Writes one answer.

    The text that is being written is one item, which ends where another kind begins. Engines may
    give the pieces of parallel calls in turns, so that calls end together with the answer.
    """

    def __init__(self, asked: Asked, *, id: str, model: str, created: int) -> None:
        self.id = id
        about = {"id": id, "object": "response", "created_at": float(created), "model": model}
        about |= {"temperature": asked.request.temperature, "top_p": asked.request.top_p}
        fields: bytes = asked.echo["fields"]
        self._about = encode(about)[:-1] + fields
        # Many clients show summaries alone. Who asks for one is given the reasoning itself as such.
        self._reasoning: PartKind = "summary_text" if asked.echo["summary"] else "reasoning_text"
        self._answer = id.removeprefix(_ID)[:32]  # names the items
        self._sequence = 0
        self._sent = 0  # events that were sent, once the answer has ended
        self._is_over = False
        self._items: list[_TextItem | _CallItem] = []
        self._calls: dict[int, _CallItem] = {}
        self._text: _TextItem | None = None  # what is open
        self._delta_head = b""  # of the part that is open, if that is a message's text

    def batch(self, deltas: Sequence[Delta]) -> bytes:
        self._sent = self._sequence
        parts: list[bytes] = []
        for delta in deltas:
            text = delta.text
            more = delta.reasoning or delta.tool_calls or delta.logprobs or delta.refusal
            if self._delta_head and not more and len(text) <= MAX_CHARACTERS:
                if text:
                    self._plain(text, parts)
            else:
                for piece in split(delta):
                    self._piece(piece, parts)
        return b"".join(parts)

    def end(self, finish: Finish, usage: Usage) -> bytes:
        self._is_over = True
        parts: list[bytes] = []
        self._begin(parts)
        self._close_all(finish, parts)
        name = b"response." + _status(finish).encode()
        parts.append(self._event(name, b'"response":' + self._ended(finish, usage)))
        return b"".join(parts)

    def error(self, error: ReverieError) -> bytes:
        """As ``Encoder.error``. Several clients may read one answer: nothing changes here."""
        events: list[tuple[bytes, bytes]] = []
        sent = self._sent if self._is_over else self._sequence
        if not sent:
            fresh = self._whole("in_progress", output=[])
            events += [(b"response.created", fresh), (b"response.in_progress", fresh)]
        cancelled = isinstance(error, AnswerCancelled)
        failed = {"code": _code(error), "message": error.message}
        whole = self._whole(
            "cancelled" if cancelled else "failed", output=self._broken_off(), error=failed
        )
        events.append((b"response.failed", whole))
        return b"".join(
            _event(name, sent + at, b'"response":' + response)
            for at, (name, response) in enumerate(events)
        )

    def answer(self, deltas: Sequence[Delta], finish: Finish, usage: Usage) -> bytes:
        unsent: list[bytes] = []
        logprobs = tuple(entry for delta in deltas for entry in delta.logprobs)
        if reasoning := "".join([delta.reasoning for delta in deltas]):
            self._add_text(self._reasoning, reasoning, (), unsent)
        if (text := "".join([delta.text for delta in deltas])) or logprobs:
            self._add_text("output_text", text, logprobs, unsent)
        if refusal := "".join([delta.refusal for delta in deltas]):
            self._add_text("refusal", refusal, (), unsent)
        for delta in deltas:
            for call in delta.tool_calls:
                self._add_call(call, unsent)
        self._close_all(finish, unsent)
        return self._ended(finish, usage)

    def snapshot(self, status: str) -> bytes:
        """The answer so far, as a JSON body."""
        output = None if status == "in_progress" else self._broken_off()
        return self._whole(status, output=output)

    def _broken_off(self) -> list[dict[str, Any]]:
        """The items of an answer that goes on no more."""
        items = [item.to_json() for item in self._items]
        return [
            {**item, "status": "incomplete"} if item["status"] == "in_progress" else item
            for item in items
        ]

    def _ended(self, finish: Finish, usage: Usage) -> bytes:
        reason = _INCOMPLETE.get(finish.reason)
        return self._whole(
            _status(finish),
            incomplete=None if reason is None else {"reason": reason},
            usage=usage_object(usage),
            completed_at=time.time() if reason is None else None,
        )

    def _whole(
        self,
        status: str,
        *,
        output: list[Any] | None = None,
        incomplete: dict[str, str] | None = None,
        error: dict[str, str] | None = None,
        usage: dict[str, Any] | None = None,
        completed_at: float | None = None,
    ) -> bytes:
        """The ``response`` object; ``output`` is all there is by default."""
        rest = {
            "status": status,
            "error": error,
            "incomplete_details": incomplete,
            "output": [item.to_json() for item in self._items] if output is None else output,
            "usage": usage,
            "completed_at": completed_at,
        }
        return self._about + b"," + encode(rest)[1:]

    # Events

    def _event(self, name: bytes, fields: bytes) -> bytes:
        event = _event(name, self._sequence, fields)
        self._sequence += 1
        return event

    def _begin(self, parts: list[bytes]) -> None:
        if self._sequence:
            return
        fresh = b'"response":' + self._whole("in_progress", output=[])
        parts.append(self._event(b"response.created", fresh))
        parts.append(self._event(b"response.in_progress", fresh))

    def _plain(self, text: str, parts: list[bytes]) -> None:
        """A piece of the text that is open."""
        assert self._text is not None
        self._text.parts[-1].texts.append(text)
        sequence = b"%d" % self._sequence
        parts += (self._delta_head, sequence, b',"delta":', encode(text), b"}\n\n")
        self._sequence += 1

    def _piece(self, piece: Delta, parts: list[bytes]) -> None:
        """Write a piece that is of one kind alone."""
        self._begin(parts)
        if piece.reasoning:
            self._add_text(self._reasoning, piece.reasoning, (), parts)
        elif piece.refusal:
            self._add_text("refusal", piece.refusal, (), parts)
        elif piece.text or piece.logprobs:
            self._add_text("output_text", piece.text, piece.logprobs, parts)
        for call in piece.tool_calls:
            self._add_call(call, parts)

    def _add_text(
        self, kind: PartKind, text: str, logprobs: Sequence[TokenLogprob], parts: list[bytes]
    ) -> None:
        item = self._enter(kind, parts)
        part = item.parts[-1]
        part.texts.append(text)
        fields = self._place(item) + b',"delta":' + encode(text)
        if kind == "output_text":
            entries = [logprob_object(entry) for entry in logprobs]
            part.logprobs += entries
            fields += b',"logprobs":' + encode(entries)
        parts.append(self._event(b"response.%b.delta" % _NAMES[kind].text, fields))

    def _enter(self, kind: PartKind, parts: list[bytes]) -> _TextItem:
        """Open a part of this kind, unless it is open; end what is open first."""
        item = self._text
        if item is not None and item.parts[-1].kind == kind:
            return item
        reasons = kind == self._reasoning
        if item is not None and item.reasons != reasons:
            self._close_text(parts, "completed")
            item = None
        if item is None:
            item = self._text = _TextItem(len(self._items), self._answer, reasons=reasons)
            self._items.append(item)
            parts.append(self._item_event(b"added", item))
        else:
            self._close_part(item, parts)
        item.parts.append(_Part(kind))
        fields = self._place(item) + b',"part":' + encode(item.parts[-1].to_json())
        parts.append(self._event(b"response.%b.added" % _NAMES[kind].part, fields))
        if kind == "output_text":
            self._delta_head = (
                b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
                + self._place(item)
                + b',"logprobs":[],"sequence_number":'
            )
        return item

    def _close_part(self, item: _TextItem, parts: list[bytes]) -> None:
        self._delta_head = b""
        part, place = item.parts[-1], self._place(item)
        names = _NAMES[part.kind]
        field = b"refusal" if part.kind == "refusal" else b"text"
        fields = place + b',"%b":%b' % (field, encode(part.text))
        if part.kind == "output_text":
            fields += b',"logprobs":' + encode(part.logprobs)
        parts.append(self._event(b"response.%b.done" % names.text, fields))
        fields = place + b',"part":' + encode(part.to_json())
        parts.append(self._event(b"response.%b.done" % names.part, fields))

    def _close_text(self, parts: list[bytes], status: str) -> None:
        """End the text that is open, if any is."""
        item, self._text = self._text, None
        if item is None:
            return
        self._close_part(item, parts)
        item.status = status
        parts.append(self._item_event(b"done", item))

    def _add_call(self, call: ToolCallDelta, parts: list[bytes]) -> None:
        item = self._calls.get(call.index)
        if item is None:
            self._close_text(parts, "completed")
            item = self._calls[call.index] = _CallItem(len(self._items), self._answer, call)
            self._items.append(item)
            parts.append(self._item_event(b"added", item))
        if call.arguments:
            item.pieces.append(call.arguments)
            fields = _place(item) + b',"delta":' + encode(call.arguments)
            parts.append(self._event(b"response.function_call_arguments.delta", fields))

    def _close_all(self, finish: Finish, parts: list[bytes]) -> None:
        self._close_text(parts, _status(finish))
        self._close_calls(parts, _status(finish))

    def _close_calls(self, parts: list[bytes], status: str) -> None:
        for item in self._calls.values():
            item.status = "completed"
        if self._calls and isinstance(last := self._items[-1], _CallItem):
            last.status = status
        for item in self._calls.values():
            done = {"name": item.name, "arguments": "".join(item.pieces)}
            fields = _place(item) + b"," + encode(done)[1:-1]
            parts.append(self._event(b"response.function_call_arguments.done", fields))
            parts.append(self._item_event(b"done", item))

    def _item_event(self, what: bytes, item: _TextItem | _CallItem) -> bytes:
        fields = b'"output_index":%d,"item":%b' % (item.index, encode(item.to_json()))
        return self._event(b"response.output_item.%b" % what, fields)

    def _place(self, item: _TextItem) -> bytes:
        """Where the part that is open is."""
        name = _NAMES[item.parts[-1].kind].position
        return _place(item) + b',"%b":%d' % (name, len(item.parts) - 1)


def _place(item: _TextItem | _CallItem) -> bytes:
    return b'"item_id":%b,"output_index":%d' % (encode(item.id), item.index)


def _event(name: bytes, sequence: int, fields: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (
        name,
        name,
        sequence,
        fields,
    )


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer isn't complete, by the reason of its end."""


def _status(finish: Finish) -> str:
    return "incomplete" if finish.reason in _INCOMPLETE else "completed"


def _code(error: ReverieError) -> str:
    """One of the codes that OpenAI's types know."""
    if isinstance(error, RateLimitExceeded | InsufficientQuota):
        return "rate_limit_exceeded"
    of_client = isinstance(error, ClientError) and not isinstance(error, AnswerCancelled)
    return "invalid_prompt" if of_client else "server_error"
