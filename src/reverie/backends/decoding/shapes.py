"""Engines' chunks → the fields that are read of them.

A chunk in OpenAI's own shape is decoded at once. Any other is parsed as plain JSON and put into
that shape: content as a list of parts (Mistral), a ``choices`` that is no list, numbers as text.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reverie.backends.decoding.tool_calls import FunctionPiece, ToolCallPiece
from reverie.backends.decoding.usage import MAX_TOKENS, Counts
from reverie.backends.decoding.utf8 import loads_lenient
from reverie.events import TokenLogprob, TopLogprob


class Message(Struct):
    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp, vLLM, SGLang
    reasoning: str | None = None  # Ollama, newer vLLM
    refusal: str | None = None
    tool_calls: list[ToolCallPiece] | None = None
    function_call: FunctionPiece | None = None


class Logprobs(Struct):
    content: tuple[TokenLogprob, ...] | None = None
    tokens: list[str] | None = None  # of a completion of a prompt, with what follows
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None

    @property
    def entries(self) -> tuple[TokenLogprob, ...]:
        """One for each token, in either shape."""
        if self.content is not None or not self.tokens:
            return self.content or ()
        lists = self.tokens, self.token_logprobs or [], self.top_logprobs or []
        return tuple(
            TokenLogprob(token, own or 0.0, None, [TopLogprob(*one) for one in (top or {}).items()])
            for token, own, top in zip_longest(*lists)
            if token is not None
        )


class Choice(Struct):
    index: int = 0
    delta: Message | None = None
    message: Message | None = None
    text: str | None = None
    """Of a completion of a prompt, streamed or not."""
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    """vLLM's: the stop string, or the stop token's id."""
    matched_stop: Any = None
    """SGLang's name of the same."""

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer."""
        both = self.stop_reason, self.matched_stop
        return next((one for one in both if isinstance(one, str)), None)


class Progress(Struct):
    """llama.cpp's progress on the prompt (``return_progress``)."""

    total: int = 0
    cache: int = 0


class Timings(Struct):
    """llama.cpp's count of the tokens so far (``timings_per_token``)."""

    predicted_n: int = 0


class Chunk(Struct):
    choices: list[Choice] | None = None
    usage: Any = None
    prompt_progress: Progress | None = None
    timings: Timings | None = None
    error: Any = None
    object: Any = None


decode_strict = msgspec.json.Decoder(Chunk).decode
"""Decode a chunk in OpenAI's shape. Raises ``DecodeError`` for another."""


class PlainMessage(Struct, gc=False):
    """A piece of text, and nothing else that ``Message`` knows."""

    content: str
    reasoning_content: None = None
    reasoning: None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class PlainChoice(Struct, gc=False):
    delta: PlainMessage
    index: Literal[0] = 0
    message: None = None
    text: None = None
    logprobs: None = None
    finish_reason: None = None
    stop_reason: None = None
    matched_stop: None = None


class PlainUsage(Struct, gc=False, forbid_unknown_fields=True):
    """The usage so far, without details."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: None = None
    completion_tokens_details: None = None

    @property
    def counts(self) -> Counts | None:
        """What ``read_counts`` makes of it; None if that has more to decide."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        if not (0 < prompt <= MAX_TOKENS and 0 < completion <= MAX_TOKENS):
            return None
        return Counts(prompt, completion) if self.total_tokens == prompt + completion else None


class PlainChunk(Struct, gc=False):
    """What nearly every chunk is: a piece of text, perhaps with counts.

    It has every field of ``Chunk``, narrowed to where nothing is to be decided: what it takes means
    the same there, and what it refuses is left to that.
    """

    choices: tuple[PlainChoice]
    usage: PlainUsage | None = None
    prompt_progress: None = None
    timings: Timings | None = None
    error: None = None
    object: Literal["chat.completion.chunk", "text_completion"] | None = None


decode_plain = msgspec.json.Decoder(PlainChunk).decode
"""Decode a plain chunk. Raises ``DecodeError`` for any other, which may well be a good one."""


class RawMessage(Struct, gc=False):
    content: msgspec.Raw


class RawChoice(Struct, gc=False):
    delta: RawMessage


class RawChunk(Struct, gc=False):
    """A plain chunk, its text as the bytes that it came in."""

    choices: tuple[RawChoice]


_THOUGHTS = ("thinking", "reasoning", "reasoning_text")
_TEXTS = ("text", "output_text")


def decode_lenient(payload: bytes) -> Chunk:
    """Decode a chunk in any shape, with characters that may be split: the slow way.

    Raises:
        ValueError: it isn't JSON, or no chunk.
        RecursionError: it is nested too deeply.
    """
    parsed = loads_lenient(payload)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    choices = parsed.get("choices")
    if not choices or choices == [None]:
        parsed["choices"] = None
    elif isinstance(choices, list):
        for choice in choices:
            _straighten_choice(choice)
    for optional in ("prompt_progress", "timings"):
        if not isinstance(parsed.get(optional), dict):
            parsed.pop(optional, None)
    return msgspec.convert(parsed, Chunk, strict=False)


def _straighten_choice(choice: Any) -> None:
    if not isinstance(choice, dict):
        return
    if choice.get("index") is None:
        choice.pop("index", None)
    reason = choice.get("finish_reason")
    if isinstance(reason, dict):  # SGLang's own shape
        choice["finish_reason"] = reason.get("type")
    if not isinstance(choice.get("logprobs"), dict):
        choice.pop("logprobs", None)
    if not isinstance(choice.get("text"), str):
        choice.pop("text", None)
    for key in ("delta", "message"):
        message = choice.get(key)
        if isinstance(message, list) and not message:  # an empty object of PHP
            choice[key] = None
        elif isinstance(message, dict):
            _straighten_message(message)


def _straighten_message(message: dict[str, Any]) -> None:
    content = message.get("content")
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        text, reasoning, refusal = _split_parts(content)
        message["content"] = text
        for key, extra in (("reasoning_content", reasoning), ("refusal", refusal)):
            if extra and not message.get(key):
                message[key] = extra
    for key in ("reasoning_content", "reasoning", "refusal"):
        if not isinstance(message.get(key), str):
            message.pop(key, None)
    calls = message.get("tool_calls")
    if isinstance(calls, dict):
        message["tool_calls"] = calls = [calls] if calls else None
    elif not isinstance(calls, list):
        message.pop("tool_calls", None)
        calls = None
    for call in calls or ():
        if isinstance(call, dict):
            _straighten_call(call)


def _straighten_call(call: dict[str, Any]) -> None:
    if not isinstance(call.get("index"), int | str):
        call.pop("index", None)
    if isinstance(call.get("id"), int):
        call["id"] = str(call["id"])
    if call.get("function") == []:
        call["function"] = None


def _split_parts(parts: list[Any]) -> tuple[str, str, str]:
    """Text, reasoning and refusal of a list of parts; parts of other types say none of these."""
    text, reasoning, refusal = [], [], []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        elif isinstance(part, dict):
            kind = part.get("type", "text")
            if kind in _TEXTS:
                text.append(_plain(part.get("text")))
            elif kind in _THOUGHTS:
                reasoning.append(_plain(part.get(kind) or part.get("text")))
            elif kind == "refusal":
                refusal.append(_plain(part.get("refusal")))
    return "".join(text), "".join(reasoning), "".join(refusal)


def _plain(value: Any) -> str:
    """The text of a part: a string, or a list of text parts (Mistral's ``thinking``)."""
    if isinstance(value, list):
        return _split_parts(value)[0]
    return value if isinstance(value, str) else ""
