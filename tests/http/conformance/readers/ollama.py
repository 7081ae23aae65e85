"""Reads ``/api/chat`` and ``/api/generate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from tests.http.conformance.readers.chat import logprob_tokens
from tests.http.conformance.readers.reading import MAX_LINE, Call, Event, Reader, Used, parse

_ENDS = (
    "done_reason",
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


class OllamaReader(Reader):
    numbered: ClassVar[bool] = False

    def __init__(self, *, chat: bool) -> None:
        super().__init__()
        self._chat = chat
        self._head: tuple[Any, Any] | None = None
        self._called = False

    def events(self, written: bytes) -> Iterator[Event]:
        """The lines, of which each is one JSON object."""
        self.expect(written.endswith(b"\n"), "the last line is cut")
        text = written.decode()
        lines = text.split("\n")[:-1]
        self.expect(text.splitlines() == lines, "a line holds what some take for a line break")
        for line in lines:
            self.expect(len(line.encode()) <= MAX_LINE, "a line is too long")
            yield Event(None, None, line)

    def event(self, event: Event) -> None:
        body = parse(event.data)
        if "error" in body:
            self.keys(body, ("error",))
            self.reading.error = body["error"]
            self.ended = True
        elif "model" not in body:
            empty = {"message": {"role": "assistant", "content": ""}}
            empty = empty if self._chat else {"response": ""}
            self.expect(body == {**empty, "done": False}, "neither a piece nor a ping")
            self.reading.pings += 1
        else:
            self._take(body, streamed=True)

    def answer(self, body: Any) -> None:
        self._take(body, streamed=False)
        self.expect(body["done"] is True, "an answer that isn't done")

    def _take(self, body: Any, *, streamed: bool) -> None:
        done = body["done"]
        where = ("message",) if self._chat else ("response", "thinking")
        must = ("model", "created_at", "done", where[0], *(_ENDS if done else ()))
        self.keys(body, must, (*where, "logprobs"))
        head = (body["model"], body["created_at"])
        self.expect(self._head in (None, head), "model or created_at change")
        self._head = head
        piece = body["message"] if self._chat else body
        if self._chat:
            self.keys(piece, ("role", "content"), ("thinking", "tool_calls"))
        text = piece["content" if self._chat else "response"]
        thinking, calls = piece.get("thinking", ""), piece.get("tool_calls", [])
        says = bool(text or thinking or calls or "logprobs" in body)
        if streamed:
            self.expect(says is not done, "a piece says nothing, or the end says something")
            self.expect(done or not self._called, "something comes after the calls")
        (choice,) = self.reading.choices
        choice.text += text
        choice.reasoning += thinking
        for index, call in enumerate(calls):
            self.keys(call, ("id", "function"))
            function = call["function"]
            self.keys(function, ("index", "name", "arguments"))
            self.expect(function["index"] == index, "calls out of order")
            self.expect(isinstance(function["arguments"], dict), "arguments are no object")
            arguments = json.dumps(function["arguments"])
            choice.calls.append(Call(call["id"], function["name"], arguments))
        self._called = self._called or bool(calls)
        choice.tokens += logprob_tokens(self, body.get("logprobs", ()))
        if done:
            choice.finish = body["done_reason"]
            self.expect(min(body[name] for name in _ENDS[1:]) >= 0, "a negative number")
            self.reading.usage = Used(body["prompt_eval_count"], body["eval_count"], None)
            self.reading.complete = self.ended = True
