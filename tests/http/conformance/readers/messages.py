"""Reads ``/v1/messages``, as the state machine of Anthropic's SDKs does, but strictly."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from tests.http.conformance.readers.reading import Broken, Call, Event, Reader, Used, parse

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_DELTAS = {
    "text": {"text_delta": "text"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
}
"""By the kind of block: its deltas, and the field of each."""
_COUNTS = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)


class MessagesReader(Reader):
    named: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._state = "new"
        self._blocks = 0
        self._open: str | None = None
        self._latest: str | None = None
        """The kind of the block that was opened last."""
        self._signed = False

    def event(self, event: Event) -> None:
        body = parse(event.data)
        self.expect(body["type"] == event.name, "the name and the type differ")
        getattr(self, f"_{event.name}")(body)

    def answer(self, body: Any) -> None:
        fields = ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage")
        self.keys(body, fields)
        self.expect((body["type"], body["role"]) == ("message", "assistant"), "no message")
        (choice,) = self.reading.choices
        order = [block["type"] for block in body["content"]]
        self.expect(order == sorted(order, key=["thinking", "text", "tool_use"].index), "disorder")
        for block in body["content"]:
            if block["type"] == "thinking":
                self.keys(block, ("type", "thinking", "signature"))
                choice.reasoning += block["thinking"]
            elif block["type"] == "text":
                self.keys(block, ("type", "text"))
                choice.text += block["text"]
            else:
                self.keys(block, ("type", "id", "name", "input"))
                choice.calls.append(Call(block["id"], block["name"], json.dumps(block["input"])))
        self._take_end(body)
        self.reading.usage = _used(self, body["usage"])

    def _message_start(self, body: Any) -> None:
        self._enter("new", "content")
        self.keys(body, ("type", "message"))
        message = body["message"]
        fields = ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage")
        self.keys(message, fields)
        empty = (message["content"], message["stop_reason"], message["stop_sequence"])
        self.expect(empty == ([], None, None), "the beginning says too much")
        self.expect(_used(self, message["usage"]).completion == 0, "tokens before the first")

    def _content_block_start(self, body: Any) -> None:
        self._enter("content", "content")
        self.keys(body, ("type", "index", "content_block"))
        self.expect(self._open is None, "a block opens in another one")
        self.expect(body["index"] == self._blocks, "the blocks' indexes have a gap")
        self._blocks += 1
        block = body["content_block"]
        kind = block["type"]
        if kind == "tool_use":
            self.keys(block, ("type", "id", "name", "input"))
            self.expect(block["input"] == {}, "the input is there too early")
            self.reading.choices[0].calls.append(Call(block["id"], block["name"]))
        else:
            empty = {"type": kind, **dict.fromkeys(_DELTAS[kind].values(), "")}
            self.expect(block == empty, "a block doesn't begin empty")
            self.expect(kind != self._latest, "a block was split without need")
        self._open = self._latest = kind
        self._signed = False

    def _content_block_delta(self, body: Any) -> None:
        self._enter("content", "content")
        self.keys(body, ("type", "index", "delta"))
        if self._open is None or body["index"] != self._blocks - 1:
            raise Broken("a delta of a block that isn't open")
        delta = body["delta"]
        field = _DELTAS[self._open][delta["type"]]
        self.keys(delta, ("type", field))
        self.expect(not self._signed, "a block goes on after its signature")
        piece = delta[field]
        if field == "signature":
            self._signed = True
            return
        self.expect(bool(piece), "an empty delta")
        (choice,) = self.reading.choices
        if self._open == "text":
            choice.text += piece
        elif self._open == "thinking":
            choice.reasoning += piece
        else:
            choice.calls[-1].arguments += piece

    def _content_block_stop(self, body: Any) -> None:
        self._enter("content", "content")
        self.keys(body, ("type", "index"))
        self.expect(self._open is not None and body["index"] == self._blocks - 1, "not open")
        self.expect(self._signed is (self._open == "thinking"), "thinking without a signature")
        self._open = None

    def _message_delta(self, body: Any) -> None:
        self._enter("content", "end")
        self.keys(body, ("type", "delta", "usage"))
        self.expect(self._open is None, "a block stays open")
        self.keys(body["delta"], ("stop_reason", "stop_sequence"))
        self._take_end(body["delta"])
        self.reading.usage = _used(self, body["usage"])

    def _message_stop(self, body: Any) -> None:
        self._enter("end", "over")
        self.keys(body, ("type",))
        self.reading.complete = self.ended = True

    def _ping(self, body: Any) -> None:
        self.reading.pings += 1

    def _error(self, body: Any) -> None:
        self.expect(self._state != "over", "an error after the end")
        self.keys(body, ("type", "error"))
        self.keys(body["error"], ("type", "message"))
        self.reading.error = body["error"]["message"]
        self.ended = True

    def _enter(self, before: str, after: str) -> None:
        if self._state != before:
            raise Broken(f"out of order, in the state {self._state}")
        self._state = after

    def _take_end(self, body: Any) -> None:
        (choice,) = self.reading.choices
        choice.finish, choice.stop = _FINISH[body["stop_reason"]], body["stop_sequence"]
        stopped = body["stop_reason"] == "stop_sequence"
        self.expect(stopped is (choice.stop is not None), "the stop string is told or not")


def _used(reader: Reader, usage: Any) -> Used:
    reader.keys(usage, _COUNTS)
    cached = usage["cache_read_input_tokens"]
    return Used(usage["input_tokens"] + cached, usage["output_tokens"], cached)
