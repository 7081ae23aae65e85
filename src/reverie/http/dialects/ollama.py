"""``/api/chat`` and ``/api/generate``: Ollama's dialect.

A stream is JSON objects, one a line. A tool call goes out whole, its arguments as an object. The
last line tells why the answer ended, and what it took.

Source: ``api/types.go`` and ``server/routes.go`` of Ollama, and ollama-python 0.6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from reverie.errors import ReverieError
from reverie.events import Delta, Finish, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.dialects.answer import arguments_object, assemble, logprob_object
from reverie.http.dialects.base import Asked, Encoder
from reverie.http.dialects.chunks import encode
from reverie.http.dialects.errors import v1_status
from reverie.http.dialects.framing import LINES
from reverie.http.dialects.split import MAX_CHARACTERS, split
from reverie.http.request.lenient import ignored_header
from reverie.http.request.ollama import Move, Parsed, parse_chat, parse_prompt

_NOTHING = Usage(prompt_tokens=0, completion_tokens=0)


class Ollama:
    """The dialect of one of the two routes.

    Args:
        chat: the answer is a ``message``; otherwise it is a ``response``.
    """

    framing = LINES
    id_headers = (b"x-request-id",)

    def __init__(self, name: str, parse: Callable[[bytes], Parsed], *, chat: bool) -> None:
        self.name = name
        self._parse = parse
        self._chat = chat
        self.ping = encode({**_piece(chat), "done": False}) + b"\n"

    def parse(self, body: bytes) -> Asked:
        request, ignored, move = self._parse(body)
        told = ignored_header(ignored)
        return Asked(request, told=told, echo={"done_reason": move}, moves_model=move is not None)

    def new_id(self, claim: Claim | None) -> str:
        return "ollama"  # its answers carry none

    def status(self, error: ReverieError) -> int:
        return v1_status(error)

    def error_body(self, error: ReverieError) -> bytes:
        return msgspec.json.encode({"error": error.message})

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> Encoder:
        return OllamaEncoder(
            model=asked.request.model or model,  # as it was asked for, with or without its tag
            created=created,
            chat=self._chat,
            move=asked.echo.get("done_reason"),
        )


class OllamaEncoder:
    """Writes one answer.

    Args:
        created: seconds since 1970.
        chat: as in ``Ollama``.
        move: what was asked for in place of an answer.
        clock: nanoseconds. The times that the end tells begin with this object.
    """

    def __init__(
        self,
        *,
        model: str,
        created: int,
        chat: bool,
        move: Move | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.move = move
        self._chat = chat
        self._envelope = {"model": model, "created_at": moment(created)}
        head = encode(self._envelope)[:-1]
        piece = b',"message":{"role":"assistant","content":' if chat else b',"response":'
        self._open = head + piece
        self._close = b'},"done":false}\n' if chat else b',"done":false}\n'
        self._calls: list[Delta] = []
        self._clock = clock
        self._began = clock()
        self._first: int | None = None

    def batch(self, deltas: Sequence[Delta]) -> bytes:
        if deltas and self._first is None:
            self._first = self._clock()
        parts: list[bytes] = []
        for delta in deltas:
            more = delta.reasoning or delta.tool_calls or delta.logprobs or delta.refusal
            if more or len(delta.text) > MAX_CHARACTERS:
                for piece in split(delta):
                    self._write(piece, parts)
            elif delta.text:
                parts += (self._open, encode(delta.text), self._close)
        return b"".join(parts)

    def end(self, finish: Finish, usage: Usage) -> bytes:
        calls = b""
        if self._calls:
            calls = self._line({**_piece(self._chat, calls=self._calls), "done": False})
        return calls + self._line({**_piece(self._chat), **self._end(_reason(finish), usage)})

    def error(self, error: ReverieError) -> bytes:
        return encode({"error": error.message}) + b"\n"

    def answer(self, deltas: Sequence[Delta], finish: Finish, usage: Usage) -> bytes:
        text = "".join([delta.text + delta.refusal for delta in deltas])
        thinking = "".join([delta.reasoning for delta in deltas])
        logprobs = [logprob_object(entry) for delta in deltas for entry in delta.logprobs]
        body = _piece(self._chat, text, thinking, deltas)
        if logprobs:
            body["logprobs"] = logprobs
        return encode({**self._envelope, **body, **self._end(_reason(finish), usage)})

    def moved(self, *, stream: bool) -> bytes:
        """What is sent once the model was loaded or unloaded."""
        assert self.move is not None
        end = self._end(self.move, _NOTHING)
        end["load_duration"] = end["total_duration"]
        line = self._line({**_piece(self._chat), **end})
        return line if stream else line[:-1]

    def _write(self, piece: Delta, parts: list[bytes]) -> None:
        """Write a piece that is of one kind alone; those of calls are kept until the end."""
        if piece.tool_calls:
            if self._chat:  # a response has no place for them
                self._calls.append(piece)
            return
        body = _piece(self._chat, piece.text + piece.refusal, piece.reasoning)
        if piece.logprobs:
            body["logprobs"] = [logprob_object(entry) for entry in piece.logprobs]
        parts.append(self._line({**body, "done": False}))

    def _line(self, body: dict[str, Any]) -> bytes:
        return encode({**self._envelope, **body}) + b"\n"

    def _end(self, reason: str, usage: Usage) -> dict[str, Any]:
        """The last fields. An answer that isn't streamed has no moment of its first token."""
        now = self._clock()
        first = self._began if self._first is None else self._first
        return {
            "done": True,
            "done_reason": reason,
            "total_duration": now - self._began,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": first - self._began,
            "eval_count": usage.completion_tokens,
            "eval_duration": max(1, now - first),  # clients divide by it
        }


def moment(seconds: int) -> str:
    """A Unix time as Ollama writes it (RFC 3339)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(finish: Finish) -> str:
    return "length" if finish.reason == "length" else "stop"


def _piece(
    chat: bool, text: str = "", thinking: str = "", calls: Sequence[Delta] = ()
) -> dict[str, Any]:
    """A piece of an answer, or all of it."""
    thought = {"thinking": thinking} if thinking else {}
    if not chat:
        return {"response": text, **thought}
    message: dict[str, Any] = {"role": "assistant", "content": text, **thought}
    if tool_calls := [_call(index, call) for index, call in enumerate(assemble(calls))]:
        message["tool_calls"] = tool_calls
    return {"message": message}


def _call(index: int, call: Any) -> dict[str, Any]:
    function = call["function"]
    arguments = arguments_object(function["arguments"])
    return {
        "id": call["id"],
        "function": {"index": index, "name": function["name"], "arguments": arguments},
    }


OLLAMA_CHAT = Ollama("ollama-chat", parse_chat, chat=True)
OLLAMA_GENERATE = Ollama("ollama-generate", parse_prompt, chat=False)
