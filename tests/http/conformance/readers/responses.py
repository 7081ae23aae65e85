"""Reads ``/v1/responses``, as the types of OpenAI's SDKs say what it is."""

from __future__ import annotations

from typing import Any, ClassVar

from tests.http.conformance.readers.chat import logprob_tokens
from tests.http.conformance.readers.reading import Broken, Call, Event, Reader, Used, parse

_PARTS = {
    "output_text": ("content_part", "output_text", "content_index", "text"),
    "refusal": ("content_part", "refusal", "content_index", "refusal"),
    "reasoning_text": ("content_part", "reasoning_text", "content_index", "text"),
    "summary_text": (
        "reasoning_summary_part",
        "reasoning_summary_text",
        "summary_index",
        "text",
    ),
}
"""By the kind of part: the names of its events, of its position, and of its text."""
_TEXTS = {names[1]: kind for kind, names in _PARTS.items()}
_ENDS = ("completed", "incomplete", "failed")
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponsesReader(Reader):
    named: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._sequence = 0
        self._about: dict[str, Any] = {}
        self._items: list[dict[str, Any]] = []
        """As they are so far: told by the events alone."""
        self._done: set[int] = set()
        self._part: str | None = None
        """The kind of the part that is open."""
        self._text_done = False
        self._wholes: set[str] = set()
        """The ids of calls whose arguments have ended."""

    def event(self, event: Event) -> None:
        body = parse(event.data)
        self.expect(body.pop("type") == event.name, "the name and the type differ")
        number = body.pop("sequence_number")
        self.expect(number == self._sequence, f"number {number} in the place of {self._sequence}")
        self._sequence += 1
        assert event.name is not None
        name = event.name.removeprefix("response.")
        begins = ("created", "in_progress")
        if number < len(begins):
            self.expect(name == begins[number], f"it begins with {name}")
            self.keys(body, ("response",))
            self._take_about(body["response"])
            self._expect_unfinished(body["response"])
        elif name in _ENDS:
            self.keys(body, ("response",))
            self._take_about(body["response"])
            self._end(name, body["response"])
        elif name.startswith("output_item."):
            self.keys(body, ("output_index", "item"))
            (self._added if name.endswith(".added") else self._finished)(**body)
        elif name.startswith("function_call_arguments."):
            self._arguments(name.rpartition(".")[2], body)
        else:
            self._in_part(*name.split("."), body)

    def repeats(self, name: str | None) -> bool:
        return name is not None and name.rpartition(".")[2] in ("done", *_ENDS)

    def answer(self, body: Any) -> None:
        self._take_about(body)
        self.expect(body["status"] in ("completed", "incomplete"), "not at its end")
        self._take_whole(body)

    # The response around the items

    def _take_about(self, response: Any) -> None:
        changing = ("status", "error", "incomplete_details", "output", "usage", "completed_at")
        missing = {*changing, "id", "object", "created_at", "model"} - set(response)
        self.expect(not missing, f"the response lacks {missing}")
        about = {name: value for name, value in response.items() if name not in changing}
        self.expect(self._about in ({}, about), "what is told of the response changes")
        self._about = about

    def _expect_unfinished(self, response: Any) -> None:
        told = [response[name] for name in ("status", "error", "output", "usage", "completed_at")]
        self.expect(told == ["in_progress", None, [], None, None], "it says too much")

    def _end(self, name: str, response: Any) -> None:
        self.ended = True
        if name == "failed":
            self.expect(response["status"] in ("failed", "cancelled"), "a wrong status")
            self.keys(response["error"], ("code", "message"))
            self.reading.error = response["error"]["message"]
            return
        self.expect(response["status"] == name, "the status is another than the event")
        self.expect(self._done == set(range(len(self._items))), "an item stays open")
        self.expect(response["output"] == self._items, "the output isn't what was streamed")
        self.reading.complete = True
        self._take_whole(response)

    def _take_whole(self, response: Any) -> None:
        self.expect(response["error"] is None, "an error at a good end")
        self.expect(response["completed_at"] is None or response["status"] == "completed", "when")
        usage = response["usage"]
        prompt, completion = usage["input_tokens"], usage["output_tokens"]
        self.expect(usage["total_tokens"] == prompt + completion, "the total is not the sum")
        cached = usage["input_tokens_details"]["cached_tokens"]
        self.reading.usage = Used(prompt, completion, cached)
        (choice,) = self.reading.choices
        choice.finish = "stop"
        if response["status"] == "incomplete":
            choice.finish = _INCOMPLETE[response["incomplete_details"]["reason"]]
        else:
            self.expect(response["incomplete_details"] is None, "complete, and then not")
        ids = [item["id"] for item in response["output"]]
        self.expect(len(set(ids)) == len(ids), "two items have one id")
        for item in response["output"]:
            self.expect(item["status"] in ("completed", "incomplete"), "an item isn't done")
            if item["type"] == "function_call":
                choice.calls.append(Call(item["call_id"], item["name"], item["arguments"]))
                continue
            for part in (*item.get("summary", ()), *item["content"]):
                self._take_part(part)

    def _take_part(self, part: Any) -> None:
        (choice,) = self.reading.choices
        if part["type"] == "output_text":
            self.keys(part, ("type", "text", "annotations", "logprobs"))
            choice.text += part["text"]
            choice.tokens += logprob_tokens(self, part["logprobs"])
        elif part["type"] == "refusal":
            choice.refusal += part["refusal"]
        else:
            choice.reasoning += part["text"]

    # Items

    def _added(self, output_index: int, item: Any) -> None:
        self.expect(output_index == len(self._items), "the items' indexes have a gap")
        self.expect(item["status"] == "in_progress", "an item begins at its end")
        open_ = [
            one
            for index, one in enumerate(self._items)
            if index not in self._done and one["type"] != "function_call"
        ]
        self.expect(not open_, "an item begins in another one")
        content = item["arguments"] if item["type"] == "function_call" else item["content"]
        self.expect(not content, "an item doesn't begin empty")
        self._items.append(item)

    def _finished(self, output_index: int, item: Any) -> None:
        begun = self._items[output_index]
        self.expect(output_index not in self._done, "an item ends twice")
        self.expect(self._part is None, "a part stays open")
        self.expect(item["status"] in ("completed", "incomplete"), "an item isn't done")
        self.expect(item == {**begun, "status": item["status"]}, "an item isn't what was streamed")
        if item["type"] == "function_call":
            self.expect(item["id"] in self._wholes, "arguments without their end")
        self._done.add(output_index)
        self._items[output_index] = item

    def _open_item(self, body: Any) -> dict[str, Any]:
        index = body.pop("output_index")
        if index in self._done or self._items[index]["id"] != body.pop("item_id"):
            raise Broken("an event of an item that isn't open")
        return self._items[index]

    def _arguments(self, verb: str, body: Any) -> None:
        item = self._open_item(body)
        if verb == "delta":
            self.keys(body, ("delta",))
            self.expect(bool(body["delta"]), "an empty delta")
            item["arguments"] += body["delta"]
        else:
            self.keys(body, ("name", "arguments"))
            whole = (item["name"], item["arguments"])
            self.expect((body["name"], body["arguments"]) == whole, "not what was streamed")
            self._wholes.add(item["id"])

    # Parts

    def _in_part(self, kind: str, verb: str, body: Any) -> None:
        item = self._open_item(body)
        if kind in _TEXTS:
            self._text(kind, verb, item, body)
            return
        part = body.pop("part")
        events, _, position, _ = _PARTS[part["type"]]
        self.expect(kind == events, "a part of another kind")
        parts = item["summary" if part["type"] == "summary_text" else "content"]
        if verb == "added":
            self.expect(self._part is None, "a part begins in another one")
            self.expect(body == {position: len(parts)}, "the parts' indexes have a gap")
            parts.append(part)
            self._part, self._text_done = part["type"], False
        else:
            self.expect(self._part == part["type"] and self._text_done, "a part ends too early")
            self.expect(body == {position: len(parts) - 1}, "another part ends")
            self.expect(part == parts[-1], "a part isn't what was streamed")
            self._part = None

    def _text(self, name: str, verb: str, item: dict[str, Any], body: Any) -> None:
        kind = _TEXTS[name]
        _, _, position, field = _PARTS[kind]
        parts = item["summary" if kind == "summary_text" else "content"]
        if self._part != kind or self._text_done or body[position] != len(parts) - 1:
            raise Broken("a text of a part that isn't open")
        part = parts[-1]
        logprobs = ("logprobs",) if kind == "output_text" else ()
        if verb == "delta":
            self.keys(body, (position, "delta", *logprobs))
            self.expect(bool(body["delta"] or body.get("logprobs")), "an empty delta")
            part[field] += body["delta"]
            if logprobs:
                part["logprobs"] += body["logprobs"]
        else:
            self.keys(body, (position, field, *logprobs))
            self.expect(all(body[one] == part[one] for one in (field, *logprobs)), "another text")
            self._text_done = True
