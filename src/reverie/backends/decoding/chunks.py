"""Decodes one answer of an OpenAI-compatible engine: payloads in, events out, sans-IO.

A payload is one ``chat.completion.chunk``, or a whole ``chat.completion`` from an engine that
ignored ``stream``. Unknown fields and all choices but the first are ignored.

Rule 1: ``Finish`` is held until the answer's end, because ``Usage`` follows in a chunk of its own.

Rule 2: an answer without a finish reason is an error, however it ended: a broken answer never
looks complete.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from reverie.backends.decoding.utf8 import CharacterJoiner, loads_lenient, replace_surrogates
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
"""Engines' finish reasons in OpenAI's terms. Others (``eos``, ``stop_sequence``) mean ``stop``."""

_FAILED = frozenset({"abort", "aborted", "cancelled", "error"})
"""Finish reasons of answers that the engine gave up."""

_MAX_TOKENS = 2**31 - 1


class EngineError(Exception):
    """The engine reported an error within its answer; ``error`` is that, parsed."""

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
    """llama.cpp's progress on the prompt (``return_progress``)."""

    total: int = 0
    cache: int = 0


class _Timings(Struct):
    """llama.cpp's count of the tokens so far (``timings_per_token``)."""

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
        continuous_usage: the engine was asked for the usage so far with each chunk.

    ``deltas`` and ``tokens``: how many there were so far. ``progress_reports``: how many the engine
    sent about the prompt. ``prompt``: its size, once known. ``finished``: the finish reason has
    arrived. ``complete``: so has usage, or ``[DONE]``; nothing that matters follows.
    """

    __slots__ = (
        "_char_pending",
        "_continuous_usage",
        "_finish_reason",
        "_joiners",
        "_tool_call_count",
        "_usage",
        "complete",
        "deltas",
        "progress_reports",
        "prompt",
        "tokens",
    )

    def __init__(self, *, continuous_usage: bool = False) -> None:
        self._continuous_usage = continuous_usage
        self.complete = False
        self.deltas = 0
        self.tokens = 0
        self.prompt: Prompt | None = None
        self.progress_reports = 0
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._tool_call_count = 0
        self._joiners: dict[str, CharacterJoiner] = {}
        self._char_pending = False  # in one of the joiners

    @property
    def finished(self) -> bool:
        return self._finish_reason is not None

    def read(self, payload: bytes) -> Delta | None:
        """Take one payload.

        Raises:
            EngineError: it reports an error.
            BackendError: it can't be read.
        """
        if payload == DONE:
            self.complete = True
            return None
        split_char = self._char_pending
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = _decode_lenient(payload)
            split_char = True
        if chunk.error is not None or chunk.object == "error":
            raise EngineError(chunk.error if chunk.error is not None else loads_lenient(payload))
        delta = None
        usage = _usage(chunk.usage) if chunk.usage is not None else None
        choice = next((one for one in chunk.choices or () if one.index == 0), None)
        if choice is not None:
            delta = self._delta(choice, split_char)
            if choice.finish_reason:
                self._finish_reason = choice.finish_reason
        if delta is not None:
            delta = self._with_tokens(delta, chunk.timings, usage)
        if chunk.prompt_progress is not None:
            self.progress_reports += 1
            self.prompt = Prompt(chunk.prompt_progress.total, chunk.prompt_progress.cache)
        elif self._continuous_usage and usage is not None and self.prompt is None:
            self.prompt = Prompt(usage.prompt_tokens, usage.cached_tokens)
        if chunk.usage is not None:
            self._usage = usage
            self.complete = self._finish_reason is not None
        return delta

    def end(self) -> list[Event]:
        """The last events: pending text, ``Finish`` and ``Usage``.

        Raises:
            BackendError: the answer was cut.
        """
        if self._finish_reason is None:
            raise BackendError(
                "The model's backend broke off its answer.",
                reason="ended without a finish reason",
            )
        if self._finish_reason in _FAILED:
            raise BackendError(
                "The model's backend gave up its answer.",
                reason=f"finish reason {self._finish_reason}",
            )
        reason = _FINISH_REASONS.get(self._finish_reason, "stop")
        if reason == "stop" and self._tool_call_count:
            reason = "tool_calls"  # engines that know only one way to end say "stop"
        return [*self._pending_text(), Finish(reason), self._usage or self._estimated_usage()]

    def _estimated_usage(self) -> Usage:
        prompt = self.prompt or Prompt(0)
        return Usage(prompt.tokens, self.tokens, prompt.cached_tokens, estimated=True)

    def _delta(self, choice: _Choice, split_char: bool) -> Delta | None:
        message = choice.delta if choice.delta is not None else choice.message
        if message is None:
            return None
        text = message.content or ""
        reasoning = message.reasoning_content or message.reasoning or ""
        calls = tuple(map(self._tool_call, message.tool_calls or ()))
        logprobs = choice.logprobs.content if choice.logprobs is not None else None
        if split_char:
            text = self._join("content", text)
            reasoning = self._join("reasoning", reasoning)
            calls = tuple(self._join_call(call) for call in calls)
            logprobs = tuple(map(_clean_logprob, logprobs or ()))
            self._char_pending = any(joiner.pending for joiner in self._joiners.values())
        if not (text or reasoning or calls or logprobs):
            return None
        self.deltas += 1
        return Delta(text, reasoning, calls, logprobs or ())

    def _with_tokens(self, delta: Delta, timings: _Timings | None, usage: Usage | None) -> Delta:
        """Set the delta's tokens: the engine's count so far, less those of earlier deltas."""
        tokens = 1
        if timings is not None and timings.predicted_n > 0:
            tokens = max(0, min(timings.predicted_n, _MAX_TOKENS) - self.tokens)
        elif self._continuous_usage and usage is not None:
            tokens = max(0, usage.completion_tokens - self.tokens)
        self.tokens += tokens
        return delta if tokens == 1 else msgspec.structs.replace(delta, tokens=tokens)

    def _tool_call(self, piece: _ToolCall) -> ToolCallDelta:
        function = piece.function or _Function()
        index = piece.index
        if index is None:  # in whole messages and in some streams, a name begins the next call
            index = self._tool_call_count if function.name else max(0, self._tool_call_count - 1)
        self._tool_call_count = max(self._tool_call_count, index + 1)
        arguments = function.arguments or ""
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        return ToolCallDelta(index, piece.id or None, function.name or None, arguments)

    def _join(self, stream: str, piece: str) -> str:
        joiner = self._joiners.get(stream)
        if joiner is None:
            joiner = self._joiners[stream] = CharacterJoiner()
        return joiner.feed(piece) if piece else ""

    def _join_call(self, call: ToolCallDelta) -> ToolCallDelta:
        return ToolCallDelta(
            call.index,
            replace_surrogates(call.id) if call.id else None,
            replace_surrogates(call.name) if call.name else None,
            self._join(f"arguments {call.index}", call.arguments),
        )

    def _pending_text(self) -> list[Event]:
        if not self._char_pending:
            return []
        rests = {stream: joiner.flush() for stream, joiner in self._joiners.items()}
        calls = tuple(
            ToolCallDelta(int(stream.removeprefix("arguments ")), arguments=rest)
            for stream, rest in rests.items()
            if rest and stream.startswith("arguments ")
        )
        return [Delta(rests.get("content", ""), rests.get("reasoning", ""), calls)]


def _usage(usage: _Usage) -> Usage | None:
    """The engine's counts; None if they are out of range, as if it had sent none."""
    details = usage.prompt_tokens_details
    counts = (
        usage.prompt_tokens or 0,
        usage.completion_tokens or 0,
        (details.cached_tokens or 0) if details is not None else 0,
    )
    return Usage(*counts) if all(0 <= count <= _MAX_TOKENS for count in counts) else None


def _decode_lenient(payload: bytes) -> _Chunk:
    """The slow way, for a payload with a split character."""
    try:
        return msgspec.convert(loads_lenient(payload), _Chunk, strict=False)
    except (ValueError, RecursionError) as error:
        raise unreadable("not a chat.completion.chunk") from error


def _clean_logprob(logprob: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        replace_surrogates(logprob.token),
        logprob.logprob,
        logprob.bytes,
        [
            TopLogprob(replace_surrogates(top.token), top.logprob, top.bytes)
            for top in logprob.top_logprobs
        ],
    )


def unreadable(reason: str) -> BackendError:
    return BackendError("The model's backend sent what can't be read.", reason=reason)
