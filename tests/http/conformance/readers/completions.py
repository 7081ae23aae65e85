"""Reads ``/v1/completions``."""

from __future__ import annotations

from typing import Any

from tests.http.conformance.readers.chat import used
from tests.http.conformance.readers.reading import Choice, Event, Reader, parse

_HEAD = ("id", "object", "created", "model")


class CompletionsReader(Reader):
    """Reads texts, whose usage was asked for.

    Args:
        continuous: so was the usage so far, on each piece.
    """

    def __init__(self, choices: int = 1, *, continuous: bool = False) -> None:
        super().__init__(choices)
        self._continuous = continuous
        self._head: tuple[Any, ...] | None = None
        self._offsets = [0] * choices

    def event(self, event: Event) -> None:
        if event.data == "[DONE]":
            self.expect(all(one.finish for one in self.reading.choices), "a choice has no end")
            self.expect(self.reading.usage is not None, "no usage")
            self.reading.complete = self.ended = True
            return
        chunk = parse(event.data)
        self._take_head(chunk)
        self.expect(self.reading.usage is None, "more follows the usage")
        if "error" in chunk:
            self.keys(chunk, (*_HEAD, "choices", "error"))
            (choice,) = chunk["choices"]
            ended = self.reading.choices[choice["index"]].finish is not None
            self.expect(not ended, "an error in the place of a choice that has ended")
            self.expect((choice["text"], choice["finish_reason"]) == ("", "error"), "no error")
            self.keys(chunk["error"], ("message", "type", "param", "code"))
            self.reading.error = chunk["error"]["message"]
            self.ended = True
        elif not chunk["choices"]:
            self.keys(chunk, (*_HEAD, "choices", "usage"))
            self.expect(all(one.finish for one in self.reading.choices), "usage before the end")
            self.reading.usage = used(chunk["usage"])
        else:
            self.keys(chunk, (*_HEAD, "choices"), ("usage",))
            (choice,) = chunk["choices"]
            counts = self._continuous and choice["finish_reason"] is None
            self.expect(("usage" in chunk) is counts, "usage on a piece, or none")
            self._take(choice, streamed=True)

    def answer(self, body: Any) -> None:
        self.keys(body, (*_HEAD, "choices", "usage"))
        self._take_head(body)
        self.expect(len(body["choices"]) == len(self.reading.choices), "too few choices")
        for index, choice in enumerate(body["choices"]):
            self.expect(choice["index"] == index, "choices out of order")
            self._take(choice, streamed=False)
        self.expect(all(one.finish for one in self.reading.choices), "a choice has no end")
        self.reading.usage = used(body["usage"])

    def _take_head(self, chunk: Any) -> None:
        head = tuple(chunk[name] for name in _HEAD)
        self.expect(head[1] == "text_completion", "a wrong object")
        self.expect(self._head in (None, head), "id, created or model change")
        self._head = head

    def _take(self, choice: Any, *, streamed: bool) -> None:
        self.keys(choice, ("text", "index", "logprobs", "finish_reason"))
        into = self.reading.choices[choice["index"]]
        self.expect(into.finish is None, "a choice goes on")
        if streamed:
            ends = choice["finish_reason"] is not None
            says = bool(choice["text"] or choice["logprobs"])
            self.expect(ends is not says, "a piece says nothing, or the end says something")
        into.text += choice["text"]
        into.finish = choice["finish_reason"]
        if choice["logprobs"] is not None:
            self._take_logprobs(choice["index"], choice["logprobs"], into)

    def _take_logprobs(self, index: int, logprobs: Any, into: Choice) -> None:
        self.keys(logprobs, ("tokens", "token_logprobs", "top_logprobs", "text_offset"))
        tokens = logprobs["tokens"]
        self.expect({len(one) for one in logprobs.values()} == {len(tokens)}, "uneven lists")
        for token, offset in zip(tokens, logprobs["text_offset"], strict=True):
            self.expect(offset == self._offsets[index], "an offset is wrong")
            self._offsets[index] += len(token)
        into.tokens += tokens
