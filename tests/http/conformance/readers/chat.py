"""Reads ``/llm`` and ``/v1/chat/completions``, as docs/protocol.md says what they are."""

from __future__ import annotations

from typing import Any

from tests.http.conformance.readers.reading import Broken, Call, Choice, Event, Reader, Used, parse

_HEAD = ("id", "object", "created", "model")


class ChatReader(Reader):
    """Reads a conversation's answer.

    Args:
        livepeer: of ``/llm``; else of ``/v1``.
        usage: it was asked for.
        continuous: the usage so far was asked for, on each piece.
    """

    def __init__(
        self,
        choices: int = 1,
        *,
        livepeer: bool = False,
        usage: bool = True,
        continuous: bool = False,
    ) -> None:
        super().__init__(choices)
        self._livepeer = livepeer
        self._wants_usage = usage
        self._continuous = continuous
        self._head: tuple[Any, ...] | None = None
        self._begun: set[int] = set()
        self._silent: set[int] = set()
        """Choices whose first piece says that nothing comes."""

    def event(self, event: Event) -> None:
        if event.data == "[DONE]":
            finished = all(choice.finish for choice in self.reading.choices)
            self.expect(finished, "a choice has no end")
            told = self.reading.usage is not None
            self.expect(told is (self._livepeer or self._wants_usage), "the usage is not as asked")
            self.reading.complete = self.ended = True
            return
        chunk = parse(event.data)
        self._take_head(chunk, "chat.completion.chunk")
        if "error" in chunk:
            self._error(chunk)
            return
        self.keys(chunk, (*_HEAD, "choices"), ("usage",))
        self.expect(self.reading.usage is None or self._livepeer, "more follows the usage")
        if not chunk["choices"]:
            self._take_usage(chunk)
            return
        (choice,) = chunk["choices"]
        self.keys(choice, ("index", "delta", "finish_reason"), ("logprobs",))
        self.expect(self.reading.choices[choice["index"]].finish is None, "a choice goes on")
        if choice["finish_reason"] is not None:
            self._finish(chunk, choice)
        else:
            self.expect(("usage" in chunk) is self._continuous, "usage on a piece, or none")
            self._piece(choice)

    def answer(self, body: Any) -> None:
        self.keys(body, (*_HEAD, "choices", "usage"))
        self._take_head(body, "chat.completion")
        self.reading.usage = used(body["usage"])
        self.reading.choices = []
        for index, choice in enumerate(body["choices"]):
            self.keys(choice, ("index", "message", "finish_reason"), ("logprobs",))
            self.expect(choice["index"] == index, "choices out of order")
            message = choice["message"]
            kinds = ("reasoning_content", "refusal", "tool_calls")
            self.keys(message, ("role", "content"), kinds)
            self.expect(all(message[kind] for kind in kinds if kind in message), "an empty field")
            no_text = None if "tool_calls" in message and not self._livepeer else ""
            self.expect(message["content"] != "" or no_text == "", "no text is not as it should be")
            self.expect(message["content"] is not None or no_text is None, "content is null")
            made = Choice(
                message["content"] or "",
                message.get("reasoning_content", ""),
                message.get("refusal", ""),
                finish=choice["finish_reason"],
            )
            for call in message.get("tool_calls", ()):
                self.keys(call, ("id", "type", "function"))
                self.keys(call["function"], ("name", "arguments"))
                made.calls.append(Call(call["id"], **call["function"]))
            made.tokens += self._logprobs(choice)
            self.reading.choices.append(made)

    def _take_head(self, chunk: Any, kind: str) -> None:
        head = tuple(chunk[name] for name in _HEAD)
        self.expect(head[1] == kind, "a wrong object")
        self.expect(self._head in (None, head), "id, created or model change")
        self._head = head

    def _error(self, chunk: Any) -> None:
        self.keys(chunk, (*_HEAD, "choices", "error"))
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        first = choice["index"] not in self._begun
        ended = self.reading.choices[choice["index"]].finish is not None
        self.expect(not ended, "an error in the place of a choice that has ended")
        must = ("role", "content") if self._livepeer or first else ("content",)
        self.keys(delta, must)
        self.expect((delta["content"], choice["finish_reason"]) == ("", "error"), "no error")
        self.keys(chunk["error"], ("message", "type", "param", "code"))
        self.reading.error = chunk["error"]["message"]
        self.ended = True

    def _take_usage(self, chunk: Any) -> None:
        self.expect(not self._livepeer and self._wants_usage, "no choice")
        finished = all(choice.finish for choice in self.reading.choices)
        self.expect(finished, "the usage comes before the end")
        self.reading.usage = used(chunk["usage"])

    def _finish(self, chunk: Any, choice: Any) -> None:
        silent = {"role": "assistant", "content": ""}
        self.expect(choice["delta"] == (silent if self._livepeer else {}), "a last piece says more")
        self.expect("logprobs" not in choice, "logprobs at the end")
        self.expect(("usage" in chunk) is self._livepeer, "usage at the end, or none")
        if self._livepeer:
            self.reading.usage = used(chunk["usage"])
        else:
            self.expect(choice["index"] in self._begun, "a choice ends that never began")
        self.reading.choices[choice["index"]].finish = choice["finish_reason"]

    def _piece(self, choice: Any) -> None:
        index, delta = choice["index"], choice["delta"]
        kinds = ("content", "reasoning_content", "refusal", "tool_calls")
        self.expect(index not in self._silent, "an answer that says nothing goes on")
        if self._livepeer:
            self.keys(delta, ("role", "content"), kinds)
        else:
            self.keys(delta, () if index in self._begun else ("role",), kinds)
        self.expect(delta.get("role", "assistant") == "assistant", "another role")
        said = [kind for kind in kinds if delta.get(kind)]
        if not said and "logprobs" not in choice:
            nothing = not self._livepeer and index not in self._begun and "content" in delta
            self.expect(nothing, "a piece says nothing")
            self._silent.add(index)
        empty = [kind for kind in kinds[1:] if kind in delta and not delta[kind]]
        self.expect(not empty, f"empty: {empty}")
        self._begun.add(index)
        into = self.reading.choices[index]
        into.text += delta.get("content", "")
        into.reasoning += delta.get("reasoning_content", "")
        into.refusal += delta.get("refusal", "")
        for call in delta.get("tool_calls", ()):
            self._call(into, call)
        into.tokens += self._logprobs(choice)

    def _call(self, into: Choice, call: Any) -> None:
        if call["index"] == len(into.calls):
            self.keys(call, ("index", "id", "type", "function"))
            self.keys(call["function"], ("name", "arguments"))
            self.expect(call["type"] == "function", "a wrong type")
            into.calls.append(Call(call["id"], **call["function"]))
        else:
            self.keys(call, ("index", "function"))
            self.keys(call["function"], ("arguments",))
            into.calls[call["index"]].arguments += call["function"]["arguments"]

    def _logprobs(self, choice: Any) -> list[str]:
        if "logprobs" not in choice:
            return []
        self.keys(choice["logprobs"], ("content",))
        self.expect(bool(choice["logprobs"]["content"]), "empty logprobs")
        return logprob_tokens(self, choice["logprobs"]["content"])


def logprob_tokens(reader: Reader, entries: Any) -> list[str]:
    """The tokens of log-probabilities in the shape that several dialects share."""
    for entry in entries:
        reader.keys(entry, ("token", "logprob", "top_logprobs"), ("bytes",))
        for one in (entry, *entry["top_logprobs"]):
            if not -9999 <= one["logprob"] <= 0:
                raise Broken(f"a logprob of {one['logprob']}")
    return [entry["token"] for entry in entries]


def used(usage: Any) -> Used:
    """OpenAI's ``usage``."""
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    if usage["total_tokens"] != prompt + completion:
        raise Broken("the total is not the sum")
    return Used(prompt, completion, usage["prompt_tokens_details"]["cached_tokens"])
