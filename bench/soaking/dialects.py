"""How each dialect asks for an answer, and how its answers are read. No I/O."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

from soaking import texts

_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
_FINISH = {
    "end_turn": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "completed": "stop",
    "incomplete": "length",
}
"""Other dialects' words for how an answer ended."""


class Ask(NamedTuple):
    """What is asked for, in any dialect."""

    model: str
    story: int
    words: int
    max_tokens: int
    stream: bool = False
    choices: int = 1
    calls: bool = False
    """The model calls a tool instead."""
    known: bool = True
    """The model is scripted."""

    @property
    def prompt(self) -> str:
        return texts.prompt(self.words, self.story)

    @property
    def tokens(self) -> int:
        """What the whole answer comes to."""
        each = texts.CALL_TOKENS if self.calls else min(self.words, self.max_tokens)
        return each * self.choices

    @property
    def text(self) -> str:
        """What each choice says: a text, or the arguments of its call."""
        if self.calls:
            return "".join(texts.CALL[1])
        return texts.text(min(self.words, self.max_tokens), self.story)

    @property
    def finish(self) -> tuple[str, ...]:
        """How it may end: not every dialect tells calls from texts."""
        if self.calls:
            return ("tool_calls", "stop")
        return ("length",) if self.words > self.max_tokens else ("stop",)


class Told:
    """What a client has been told so far."""

    def __init__(self) -> None:
        self.texts: defaultdict[int, str] = defaultdict(str)
        """By choice."""
        self.id = ""
        self.finish = ""
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.error = ""
        """The error's code or kind."""
        self.ended = False
        """It came to the end that its dialect has."""
        self.events = 0
        self.last_event = ""
        """The number of the last event."""

    @property
    def delivered(self) -> int:
        """Tokens of text that came."""
        return sum(map(texts.count, self.texts.values()))

    def mistake(self, ask: Ask) -> str | None:
        """What is wrong with it: a letter, the end, the usage. None: nothing."""
        if not ask.known:
            return None
        expected = ask.text
        for said in self.texts.values():
            if not expected.startswith(said):
                return f"a text isn't what the engine said: {said[-60:]!r}"
        if not self.ended:
            return None
        if list(self.texts.values()) != [expected] * ask.choices:
            lengths = [len(said) for said in self.texts.values()]
            return f"an answer is whole and its text isn't: {lengths} of {len(expected)} letters"
        if self.finish not in ask.finish:
            return f"an answer ended as {self.finish!r}"
        if self.completion_tokens not in (None, ask.tokens):
            return f"an answer of {ask.tokens} tokens was told as {self.completion_tokens}"
        return None


class Dialect(NamedTuple):
    """One way to ask."""

    name: str
    path: str
    body: Callable[[Ask], dict[str, Any]]
    read: Callable[[dict[str, Any], Told], None]
    """Reads an event of a stream, or a whole answer."""
    lines: bool = False
    """A stream is JSON on lines, not events."""
    most_choices: int = 1


def _usage(told: Told, usage: dict[str, Any] | None, prompt: str, completion: str) -> None:
    if usage and completion in usage:
        told.prompt_tokens = usage.get(prompt, told.prompt_tokens)
        told.completion_tokens = usage[completion]


def _error(read: dict[str, Any], told: Told) -> None:
    if error := read.get("error"):
        if isinstance(error, str):
            told.error = error
        else:
            told.error = str(error.get("code") or error.get("type") or error)


def _finish(told: Told, reason: str | None) -> None:
    if reason:
        told.finish = _FINISH.get(reason, reason)


def _tool(ask: Ask) -> list[dict[str, Any]]:
    function = {"name": texts.CALL[0], "description": "The weather.", "parameters": _PARAMETERS}
    return [{"type": "function", "function": function}] if ask.calls else []


def _conversation(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": [{"role": "user", "content": ask.prompt}],
        "stream": ask.stream,
        "max_tokens": ask.max_tokens,
    }
    if ask.calls:
        body["tools"] = _tool(ask)
    return body


def _chat(ask: Ask) -> dict[str, Any]:
    body = _conversation(ask)
    if ask.choices > 1:
        body["n"] = ask.choices
    if ask.stream and ask.story % 4:  # some don't ask for it
        body["stream_options"] = {"include_usage": True}
    return body


def _completion(ask: Ask) -> dict[str, Any]:
    body = _chat(ask)
    del body["messages"]
    return {**body, "prompt": ask.prompt}


def _read_chat(read: dict[str, Any], told: Told) -> None:
    _error(read, told)
    told.id = read.get("id", told.id)
    for choice in read.get("choices", ()):
        piece = choice.get("delta") or choice.get("message") or {}
        said = piece.get("content") or choice.get("text") or ""
        for call in piece.get("tool_calls", ()):
            said += call["function"].get("arguments") or ""
        told.texts[choice["index"]] += said
        _finish(told, choice.get("finish_reason"))
    _usage(told, read.get("usage"), "prompt_tokens", "completion_tokens")


def _messages(ask: Ask) -> dict[str, Any]:
    body = _conversation(ask)
    if ask.calls:
        tool = {"name": texts.CALL[0], "input_schema": _PARAMETERS}
        body["tools"] = [tool]
    return body


def _read_messages(read: dict[str, Any], told: Told) -> None:
    kind = read["type"]
    if kind == "error":
        _error(read, told)
    elif kind == "message":
        told.id = read["id"]
        for block in read["content"]:
            told.texts[0] += block.get("text") or _compact(block.get("input"))
        _finish(told, read["stop_reason"])
        _usage(told, read["usage"], "input_tokens", "output_tokens")
    elif kind == "message_start":
        told.id = read["message"]["id"]
        told.texts[0] += ""
    elif kind == "content_block_delta":
        delta = read["delta"]
        told.texts[0] += delta.get("text") or delta.get("partial_json") or ""
    elif kind == "message_delta":
        _finish(told, read["delta"].get("stop_reason"))
        _usage(told, read["usage"], "input_tokens", "output_tokens")
    elif kind == "message_stop":
        told.ended = True


def _responses(ask: Ask) -> dict[str, Any]:
    body = {
        "model": ask.model,
        "input": ask.prompt,
        "stream": ask.stream,
        "max_output_tokens": ask.max_tokens,
    }
    if ask.calls:
        tool = {"type": "function", "name": texts.CALL[0], "parameters": _PARAMETERS}
        body["tools"] = [tool]
    return body


def _read_responses(read: dict[str, Any], told: Told) -> None:
    kind = read.get("type", "")
    if kind in ("response.output_text.delta", "response.function_call_arguments.delta"):
        told.texts[0] += read["delta"]
    elif kind in ("response.completed", "response.incomplete", "response.failed"):
        _read_response(read["response"], told)
    elif kind == "response.created":
        told.id = read["response"]["id"]
    elif read.get("object") == "response":
        for item in read["output"]:
            told.texts[0] += item.get("arguments") or ""
            for part in item.get("content") or ():
                told.texts[0] += part.get("text") or ""
        _read_response(read, told)
    else:
        _error(read, told)


def _read_response(response: dict[str, Any], told: Told) -> None:
    told.id = response["id"]
    _error(response, told)
    told.ended = response["status"] in ("completed", "incomplete")
    _finish(told, response["status"])
    _usage(told, response.get("usage"), "input_tokens", "output_tokens")


def _ollama(ask: Ask) -> dict[str, Any]:
    body = _conversation(ask)
    body["options"] = {"num_predict": body.pop("max_tokens")}
    return body


def _ollama_generate(ask: Ask) -> dict[str, Any]:
    body = _ollama(ask)
    del body["messages"]
    return {**body, "prompt": ask.prompt}


def _read_ollama(read: dict[str, Any], told: Told) -> None:
    _error(read, told)
    if "error" in read:
        return
    message = read.get("message") or {}
    told.texts[0] += message.get("content") or read.get("response") or ""
    for call in message.get("tool_calls") or ():
        told.texts[0] += _compact(call["function"]["arguments"])
    told.ended |= bool(read["done"])
    _finish(told, read.get("done_reason"))
    _usage(told, read, "prompt_eval_count", "eval_count")


def _compact(value: Any) -> str:
    return "" if value is None else json.dumps(value, separators=(",", ":"))


LLM = Dialect("llm", "/llm", _conversation, _read_chat)
CHAT = Dialect("chat", "/v1/chat/completions", _chat, _read_chat, most_choices=2)
COMPLETIONS = Dialect("completions", "/v1/completions", _completion, _read_chat, most_choices=2)
MESSAGES = Dialect("messages", "/v1/messages", _messages, _read_messages)
RESPONSES = Dialect("responses", "/v1/responses", _responses, _read_responses)
OLLAMA = Dialect("ollama chat", "/api/chat", _ollama, _read_ollama, lines=True)
OLLAMA_GENERATE = Dialect(
    "ollama generate", "/api/generate", _ollama_generate, _read_ollama, lines=True
)
ALL = (LLM, CHAT, COMPLETIONS, MESSAGES, RESPONSES, OLLAMA, OLLAMA_GENERATE)
WITH_TOOLS = (LLM, CHAT, MESSAGES, RESPONSES, OLLAMA)
RESUMABLE = (LLM, CHAT, COMPLETIONS, MESSAGES)
"""Those whose streams have numbered events for ``Last-Event-ID``."""
