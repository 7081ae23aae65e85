"""One answer of an OpenAI-compatible engine: payloads in, events out, sans-IO.

A payload is one ``chat.completion.chunk``, or a whole ``chat.completion`` from an engine that
ignored ``stream``. Unknown fields are ignored, and so is every choice but the first.

Rule 1: ``Finish`` is held until the answer's end, because ``Usage`` comes after it, in a chunk of
its own.

Rule 2: an answer without a finish reason is an error, however it ended: a cut answer never looks
complete.

Rule 3: of an engine's error, its status, type and code may go on (into the log), never its text.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from reverie.backends.decoding.utf8 import Mender, loads_damaged, replace_damaged
from reverie.errors import BackendError
from reverie.events import (
    Delta,
    Event,
    Finish,
    Prompt,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

DONE = b"[DONE]"

_FINISH_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
}
"""Engines' finish reasons in OpenAI's words. Others (``eos``, ``stop_sequence``) are ``stop``."""

_FAILED = frozenset({"abort", "aborted", "cancelled", "error"})
"""Finish reasons of an answer that the engine gave up."""

_MOST_TOKENS = 2**31 - 1


class EngineError(Exception):
    """The engine reported an error within its answer; ``error`` is what it sent, as parsed."""

    def __init__(self, error: Any) -> None:
        super().__init__("the engine reported an error")
        self.error = error


class _Function(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCall(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(Struct):
    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp, vLLM, SGLang
    reasoning: str | None = None  # Ollama, newer vLLM
    tool_calls: list[_ToolCall] | None = None


class _Logprobs(Struct):
    content: tuple[TokenLogprob, ...] | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _PromptDetails(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Progress(Struct):
    """llama.cpp's word on its work on the prompt (``return_progress``)."""

    total: int = 0
    cache: int = 0


class _Timings(Struct):
    """llama.cpp's word on its work so far (``timings_per_token``)."""

    predicted_n: int = 0


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    prompt_progress: _Progress | None = None
    timings: _Timings | None = None
    error: Any = None
    object: str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class AnswerDecoder:
    """The state of one answer.

    Args:
        tells_usage: the engine was asked for its usage so far with each piece.

    ``pieces``: deltas so far. ``tokens``: what they came to. ``reports``: how often the engine has
    told of its work on the prompt. ``prompt``: its size, once the engine has told it. ``finished``:
    a finish reason has arrived. ``complete``: usage has, too, or ``[DONE]``; nothing that matters
    comes after it.
    """

    __slots__ = (
        "_calls",
        "_damaged",
        "_menders",
        "_reason",
        "_tells_usage",
        "_usage",
        "complete",
        "pieces",
        "prompt",
        "reports",
        "tokens",
    )

    def __init__(self, *, tells_usage: bool = False) -> None:
        self._tells_usage = tells_usage
        self.complete = False
        self.pieces = 0
        self.tokens = 0
        self.prompt: Prompt | None = None
        self.reports = 0
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._calls = 0  # tool calls so far
        self._menders: dict[str, Mender] = {}
        self._damaged = False  # a mender holds the beginning of a character

    @property
    def finished(self) -> bool:
        return self._reason is not None

    def read(self, payload: bytes) -> Delta | None:
        """Take one payload.

        Raises:
            EngineError: it reports an error.
            BackendError: it can't be read.
        """
        if payload == DONE:
            self.complete = True
            return None
        damaged = False
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = _decode_damaged(payload)
            damaged = True
        if chunk.error is not None or chunk.object == "error":
            raise EngineError(chunk.error if chunk.error is not None else loads_damaged(payload))
        delta = None
        usage = _usage(chunk.usage) if chunk.usage is not None else None
        choice = _first(chunk.choices) if chunk.choices else None
        if choice is not None:
            delta = self._delta(choice, damaged or self._damaged)
            if choice.finish_reason:
                self._reason = choice.finish_reason
        if delta is not None:
            delta = self._counted(delta, chunk.timings, usage)
        if chunk.prompt_progress is not None:
            self.reports += 1
            self.prompt = Prompt(chunk.prompt_progress.total, chunk.prompt_progress.cache)
        elif self._tells_usage and usage is not None and self.prompt is None:
            self.prompt = Prompt(usage.prompt_tokens, usage.cached_tokens)
        if chunk.usage is not None:
            self._usage = usage
            self.complete = self._reason is not None
        return delta

    def end(self) -> list[Event]:
        """The last events: what was held of the text, ``Finish`` and ``Usage``.

        Raises:
            BackendError: the answer was cut.
        """
        if self._reason is None:
            raise BackendError(
                "The model's backend broke off its answer.",
                reason="ended without a finish reason",
            )
        if self._reason in _FAILED:
            raise BackendError(
                "The model's backend gave up its answer.", reason=f"finish reason {self._reason}"
            )
        reason = _FINISH_REASONS.get(self._reason, "stop")
        if reason == "stop" and self._calls:
            reason = "tool_calls"  # engines that know only one way to end say "stop"
        return [*self._held(), Finish(reason), self._usage or self._estimate()]

    def _estimate(self) -> Usage:
        prompt = self.prompt or Prompt(0)
        return Usage(prompt.tokens, self.tokens, prompt.cached_tokens, estimated=True)

    def _delta(self, choice: _Choice, damaged: bool) -> Delta | None:
        message = choice.delta if choice.delta is not None else choice.message
        if message is None:
            return None
        text = message.content or ""
        reasoning = message.reasoning_content or message.reasoning or ""
        calls = self._tool_calls(message.tool_calls) if message.tool_calls else ()
        logprobs = choice.logprobs.content if choice.logprobs is not None else None
        if damaged:
            text = self._mend("content", text)
            reasoning = self._mend("reasoning", reasoning)
            calls = tuple(self._mend_call(call) for call in calls)
            logprobs = tuple(map(_mend_logprob, logprobs or ()))
            self._damaged = any(mender.holds for mender in self._menders.values())
        if not (text or reasoning or calls or logprobs):
            return None
        self.pieces += 1
        return Delta(text, reasoning, calls, logprobs or ())

    def _counted(self, delta: Delta, timings: _Timings | None, usage: Usage | None) -> Delta:
        """The delta with its tokens: what the engine counts by now, less what came before."""
        tokens = 1
        if timings is not None and timings.predicted_n > 0:
            tokens = max(0, min(timings.predicted_n, _MOST_TOKENS) - self.tokens)
        elif self._tells_usage and usage is not None:
            tokens = max(0, usage.completion_tokens - self.tokens)
        self.tokens += tokens
        return delta if tokens == 1 else msgspec.structs.replace(delta, tokens=tokens)

    def _tool_calls(self, pieces: list[_ToolCall]) -> tuple[ToolCallDelta, ...]:
        return tuple(self._tool_call(piece) for piece in pieces)

    def _tool_call(self, piece: _ToolCall) -> ToolCallDelta:
        function = piece.function or _Function()
        index = piece.index
        if index is None:  # whole messages, and a few engines' streams: a name begins the next
            index = self._calls if function.name else max(0, self._calls - 1)
        self._calls = max(self._calls, index + 1)
        arguments = function.arguments or ""
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        return ToolCallDelta(index, piece.id or None, function.name or None, arguments)

    def _mend(self, stream: str, piece: str) -> str:
        mender = self._menders.get(stream)
        if mender is None:
            mender = self._menders[stream] = Mender()
        return mender.mend(piece) if piece else ""

    def _mend_call(self, call: ToolCallDelta) -> ToolCallDelta:
        return ToolCallDelta(
            call.index,
            replace_damaged(call.id) if call.id else None,
            replace_damaged(call.name) if call.name else None,
            self._mend(f"arguments {call.index}", call.arguments),
        )

    def _held(self) -> list[Event]:
        if not self._damaged:
            return []
        rests = {stream: mender.flush() for stream, mender in self._menders.items()}
        calls = tuple(
            ToolCallDelta(int(stream.removeprefix("arguments ")), arguments=rest)
            for stream, rest in rests.items()
            if rest and stream.startswith("arguments ")
        )
        return [Delta(rests.get("content", ""), rests.get("reasoning", ""), calls)]


def _first(choices: list[_Choice]) -> _Choice | None:
    for choice in choices:
        if choice.index == 0:
            return choice
    return None


def _usage(usage: _Usage) -> Usage | None:
    """What the engine counted; None if that can't be, which is as good as nothing."""
    details = usage.prompt_tokens_details
    counts = (
        usage.prompt_tokens or 0,
        usage.completion_tokens or 0,
        (details.cached_tokens or 0) if details is not None else 0,
    )
    return Usage(*counts) if all(0 <= count <= _MOST_TOKENS for count in counts) else None


def _decode_damaged(payload: bytes) -> _Chunk:
    """The slow way, for a payload with half a character in it."""
    try:
        return msgspec.convert(loads_damaged(payload), _Chunk, strict=False)
    except (ValueError, RecursionError) as error:
        raise BackendError(
            "The model's backend sent what can't be read.", reason="not a chat.completion.chunk"
        ) from error


def _mend_logprob(logprob: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        replace_damaged(logprob.token),
        logprob.logprob,
        logprob.bytes,
        [
            TopLogprob(replace_damaged(top.token), top.logprob, top.bytes)
            for top in logprob.top_logprobs
        ],
    )


_IDENTIFIER = re.compile(r"[\w.-]{1,64}")


def describe(error: Any) -> str:
    """An engine's error for the log: its type and code, none of its text (Rule 3)."""
    if not isinstance(error, dict):
        return "no type given"
    known = {
        key: str(value)
        for key in ("type", "code")
        if isinstance(value := error.get(key), (str, int)) and _IDENTIFIER.fullmatch(str(value))
    }
    return ", ".join(f"{key} {value}" for key, value in known.items()) or "no type given"
