"""Writes ``chat.completion.chunk`` streams: the parts that dialects share.

The bytes that every chunk of a stream shares are built once. A plain text delta then costs one
JSON string and its place in a join.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from reverie.errors import ReverieError
from reverie.events import Delta, Finish, ToolCallDelta, Usage
from reverie.http.dialects.answer import logprob_object, usage_object, whole_answer
from reverie.http.dialects.errors import error_object
from reverie.http.dialects.split import MAX_CHARACTERS, SEPARATOR, joined_pieces, split

DONE = b"data: [DONE]\n\n"
ROLE = b'"role":"assistant",'
NO_TEXT = b'"content":""'
NOT_FINISHED = b'},"finish_reason":null}]}\n\n'

_encode_json = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """JSON on one line, as every client understands lines.

    Some clients split lines as Python's ``str.splitlines`` does, also at three characters that
    JSON doesn't escape.
    """
    encoded = _encode_json(value)
    return encoded if encoded.isascii() else _on_one_line(encoded)


def _on_one_line(encoded: bytes) -> bytes:
    return (
        encoded.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


_END = b'"finish_reason":null}]}\n\n'


def with_usage(chunks: bytes, usage: Usage) -> bytes:
    """Chunks, each with the usage so far. No JSON text holds the line breaks that end a chunk."""
    counted = b'"finish_reason":null}],"usage":%b}\n\n' % encode(usage_object(usage))
    return chunks.replace(_END, counted)


class ChunkEncoder:
    """An ``Encoder`` whose subclasses decide where the role and the usage go."""

    role_always: ClassVar[bool]
    """True: every chunk carries the role and a content. False: only the first one has the role."""
    content_beside_tool_calls: ClassVar[str | None]
    """The content of a whole answer that has tool calls and no text."""

    def __init__(self, *, id: str, model: str, created: int, index: int = 0) -> None:
        self._envelope = {"id": id, "created": created, "model": model}
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            encode(id),
            created,
            encode(model),
        )
        self._open = self._head + b'"choices":[{"index":%d,"delta":{' % index
        self._began = False
        self._role = ROLE
        self._role_due = ROLE  # as it was before the latest batch
        self._ended = False
        self._open_text = self._open + ROLE + b'"content":'

    def batch(self, deltas: Sequence[Delta]) -> bytes:
        self._role_due = self._role
        joined = joined_pieces(deltas)
        return self._each(deltas) if joined is None else self._together(joined)

    def _together(self, joined: str) -> bytes:
        """The chunks for several texts, which are encoded at once."""
        first = self._open_text
        if not self._began:
            self._begin()
        between = b'"%b%b"' % (NOT_FINISHED, self._open_text)
        texts = encode(joined).replace(SEPARATOR.encode(), between)
        return b"".join((first, texts, NOT_FINISHED))

    def _each(self, deltas: Sequence[Delta]) -> bytes:
        parts: list[bytes] = []
        for delta in deltas:
            text = delta.text
            more = delta.reasoning or delta.tool_calls or delta.logprobs or delta.refusal
            if more or len(text) > MAX_CHARACTERS:
                for piece in split(delta):
                    parts.append(self._piece(piece))
            elif text:
                encoded = _encode_json(text)
                if not encoded.isascii():
                    encoded = _on_one_line(encoded)
                parts += (self._open_text, encoded, NOT_FINISHED)
                if not self._began:
                    self._begin()
        return b"".join(parts)

    def error(self, error: ReverieError) -> bytes:
        return b'%b%b%b},"finish_reason":"error"}],"error":%b}\n\n' % (
            self._open,
            self._role_due if self._ended else self._role,
            NO_TEXT,
            encode(error_object(error)),
        )

    def answer(self, deltas: Sequence[Delta], finish: Finish, usage: Usage) -> bytes:
        return self.whole([(deltas, finish)], usage)

    def whole(self, choices: Sequence[tuple[Sequence[Delta], Finish]], usage: Usage) -> bytes:
        """The one JSON body of an answer with these choices."""
        return whole_answer(self._envelope, choices, usage, no_text=self.content_beside_tool_calls)

    def _begin(self) -> None:
        """Note that the first chunk is written."""
        self._began = True
        if not self.role_always:
            self._role = b""
            self._open_text = self._open + b'"content":'

    def _piece(self, piece: Delta) -> bytes:
        """One chunk of any kind."""
        fields: list[bytes] = []
        if piece.text or piece.logprobs or self.role_always:
            fields.append(b'"content":' + encode(piece.text))
        if piece.reasoning:
            fields.append(b'"reasoning_content":' + encode(piece.reasoning))
        if piece.refusal:
            fields.append(b'"refusal":' + encode(piece.refusal))
        if piece.tool_calls:
            calls = [_tool_call(call) for call in piece.tool_calls]
            fields.append(b'"tool_calls":' + encode(calls))
        chunk = self._open + self._role + b",".join(fields)
        if not self._began:
            self._begin()
        if not piece.logprobs:
            return chunk + NOT_FINISHED
        logprobs = encode({"content": [logprob_object(entry) for entry in piece.logprobs]})
        return b'%b},"logprobs":%b,"finish_reason":null}]}\n\n' % (chunk, logprobs)


def _tool_call(call: ToolCallDelta) -> dict[str, Any]:
    """A piece in OpenAI's shape: only the first one names the function."""
    function: dict[str, Any] = {"arguments": call.arguments}
    piece: dict[str, Any] = {"index": call.index}
    if call.id is not None:
        piece["id"] = call.id
    if call.name is not None:
        function = {"name": call.name, "arguments": call.arguments}
    if call.id is not None or call.name is not None:
        piece["type"] = "function"
    piece["function"] = function
    return piece
