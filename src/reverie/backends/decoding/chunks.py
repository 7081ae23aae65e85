"""Decodes one answer of an OpenAI-compatible engine: payloads in, events out, sans-IO.

A payload is one ``chat.completion.chunk``, or a whole ``chat.completion`` from an engine that
ignored ``stream``. Unknown fields and all choices but the first are ignored.

Rule 1: ``Finish`` is held until the answer's end, because ``Usage`` follows in a chunk of its own.

Rule 2: an answer without a finish reason is an error, however it ended: a broken answer never
looks complete. After the finish reason nothing is an error: the answer is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from reverie.backends.decoding.pattern import ChunkPattern
from reverie.backends.decoding.shapes import (
    Choice,
    Chunk,
    Message,
    Timings,
    decode_lenient,
    decode_plain,
    decode_strict,
)
from reverie.backends.decoding.tool_calls import ToolCallPiece, ToolCalls
from reverie.backends.decoding.usage import MAX_TOKENS, Counts, read_counts
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
    **dict.fromkeys(
        (
            "length",
            "max_tokens",
            "max_length",
            "max_output_tokens",
            "model_length",
            "model_context_window_exceeded",
        ),
        "length",
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "function_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "safety",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "sensitive",
            "refusal",
            "guardrail_intervened",
        ),
        "content_filter",
    ),
}
"""Engines' finish reasons, in lower case, in OpenAI's terms. Others (``eos``, ``end_turn``,
``stop_sequence``) mean ``stop``."""

_FAILED = frozenset(
    {
        "abort",
        "aborted",
        "cancelled",
        "canceled",
        "error",
        "failed",
        "insufficient_system_resource",  # DeepSeek
        "malformed_function_call",  # Gemini
        "network_error",  # Zhipu
        "timeout",
    }
)
"""Finish reasons of answers that the engine gave up."""

_MAX_MISSES = 8
"""How often a chunk may turn out not to be plain before no other is expected to be: an engine whose
chunks never are would have each decoded twice."""


class EngineError(Exception):
    """The engine reported an error within its answer; ``error`` is that, parsed."""

    def __init__(self, error: Any) -> None:
        super().__init__("the engine reported an error")
        self.error = error


class AnswerDecoder:
    """The state of one answer.

    Args:
        continuous_usage: the engine was asked for the usage so far with each chunk.
        functions: the names of the functions that may be called.

    ``deltas`` and ``tokens``: how many there were so far. ``prompt``: its size, once known; another
    object for each report of the engine's. ``finished``: the finish reason has arrived.
    ``complete``: so has usage, or ``[DONE]``; nothing that matters follows.
    """

    __slots__ = (
        "_calls",
        "_char_pending",
        "_continuous_usage",
        "_counted_deltas",
        "_counts",
        "_finish_reason",
        "_joiners",
        "_misses",
        "_pattern",
        "_plain",
        "_stop",
        "complete",
        "deltas",
        "prompt",
        "tokens",
    )

    def __init__(
        self, *, continuous_usage: bool = False, functions: frozenset[str] = frozenset()
    ) -> None:
        self._continuous_usage = continuous_usage
        self.complete = False
        self.deltas = 0
        self.tokens = 0
        self.prompt: Prompt | None = None
        self._finish_reason: str | None = None
        self._stop: str | None = None
        self._counts = Counts()
        self._counted_deltas = 0  # how many deltas the engine's latest count includes
        self._calls = ToolCalls(functions)
        self._joiners: dict[str, CharacterJoiner] = {}
        self._char_pending = False  # in one of the joiners
        self._plain = True  # the next chunk is likely a plain one
        self._misses = 0
        self._pattern = ChunkPattern()

    @property
    def finished(self) -> bool:
        return self._finish_reason is not None

    def read_alike(self, data: bytes) -> list[str] | None:
        """Take a read of whole events whose chunks are like one before, but for their texts.

        Returns:
            The texts, a token each; None: it is something else, and nothing of it was taken.
        """
        if not (self._plain and self._pattern.known):
            return None
        texts = self._pattern.texts(data)
        return None if texts is None else self._taken(texts)

    def read_alike_of(self, payloads: Sequence[bytes], begin: int) -> list[str]:
        """Take the payloads from there on that are like one before, up to one that isn't.

        Returns:
            The texts, a token each.
        """
        if not (self._plain and self._pattern.known):
            return []
        return self._taken(self._pattern.texts_before_another(payloads, begin))

    def _taken(self, texts: list[str]) -> list[str]:
        self.deltas += len(texts)
        self.tokens += len(texts)
        return texts

    def read(self, payload: bytes) -> Delta | None:
        """Take one payload.

        Raises:
            EngineError: it reports an error.
            BackendError: it can't be read.
        """
        if self._plain:
            try:
                chunk = decode_plain(payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._plain = False
                self._misses += 1
            else:
                text = chunk.choices[0].delta.content
                counts = None if chunk.usage is None else chunk.usage.counts
                if text and (counts is not None or chunk.usage is None):
                    if counts is None and chunk.timings is None and not self._pattern.known:
                        self._pattern.learn(payload)
                    return self._take_plain(text, chunk.timings, counts)
        return self.read_any(payload)

    def _take_plain(self, text: str, timings: Timings | None, counts: Counts | None) -> Delta:
        self.deltas += 1
        delta = self._with_tokens(Delta(text), timings, counts)
        if counts is not None:
            self._note_counts(counts)
        return delta

    def read_any(self, payload: bytes) -> Delta | None:
        """As ``read``, by the rules for every chunk, the plain one among them."""
        if payload == DONE:
            self.complete = True
            return None
        split_char = self._char_pending
        try:
            chunk = decode_strict(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if payload.strip() == DONE:
                self.complete = True
                return None
            try:
                chunk = decode_lenient(payload)
            except (ValueError, RecursionError) as error:
                if self.finished:
                    return None
                raise unreadable("not a chat.completion.chunk") from error
            split_char = True
        if not self.finished and (chunk.object == "error" or _is_error(chunk.error)):
            raise EngineError(chunk.error or loads_lenient(payload))
        delta = self._take(chunk, split_char)
        if self._char_pending or self.finished:
            self._plain = False
        elif delta is not None:
            more = delta.reasoning or delta.tool_calls or delta.logprobs or delta.refusal
            self._plain = not more and self._misses < _MAX_MISSES
        return delta

    def _take(self, chunk: Chunk, split_char: bool) -> Delta | None:
        delta = None
        counts = read_counts(chunk.usage) if chunk.usage is not None else None
        choice = next((one for one in chunk.choices or () if one.index == 0), None)
        if choice is not None:
            delta = self._delta(choice, split_char)
            if choice.finish_reason:
                self._finish_reason = choice.finish_reason.lower()
                self._stop = choice.stop and replace_surrogates(choice.stop)
        if delta is not None:
            delta = self._with_tokens(delta, chunk.timings, counts)
        if (progress := chunk.prompt_progress) is not None:
            cached = {"cached_tokens": progress.cache}
            told = {"prompt_tokens": progress.total, "prompt_tokens_details": cached}
            if (prompt := read_counts(told)) is not None:
                self.prompt = Prompt(prompt.prompt, prompt.cached)
        if counts is not None:
            self._note_counts(counts)
        return delta

    def _note_counts(self, counts: Counts) -> None:
        """Take the usage so far, which includes this chunk's delta."""
        if self._continuous_usage and counts.prompt and self.prompt is None:
            self.prompt = Prompt(counts.prompt, counts.cached)
        self._counts = self._counts.with_later(counts)
        if counts.completion:
            self._counted_deltas = self.deltas
        if self.finished and self._counted:
            self.complete = True

    @property
    def _counted(self) -> bool:
        """True if the engine has counted the whole answer so far. Zero is no count of a text."""
        counts = self._counts
        if not counts.prompt:
            return False
        return not self.deltas or (counts.completion > 0 and self._counted_deltas == self.deltas)

    def end(self) -> list[Event]:
        """The last events: pending text, ``Finish`` and ``Usage``.

        Raises:
            BackendError: the answer was cut.
        """
        if self._finish_reason is None:
            raise BackendError(
                "The model's backend broke off its answer. Try again.",
                reason="ended without a finish reason",
            )
        if self._finish_reason in _FAILED:
            raise BackendError(
                "The model's backend gave up its answer. Try again.",
                reason=f"finish reason {self._finish_reason}",
            )
        reason = _FINISH_REASONS.get(self._finish_reason, "stop")
        if reason == "stop" and len(self._calls):
            reason = "tool_calls"  # engines that know only one way to end say "stop"
        usage = self._usage()
        return [*self._pending(cut=reason != "tool_calls"), Finish(reason, self._stop), usage]

    def _usage(self) -> Usage:
        """The engine's counts; where it told none, its earlier ones and the deltas' tokens."""
        counts = self._counts
        if self._counted:
            return counts.as_usage(completion=counts.completion, estimated=False)
        if not counts.prompt and self.prompt is not None:
            counts = counts.with_later(Counts(self.prompt.tokens, 0, self.prompt.cached_tokens))
        current = counts.completion if self._counted_deltas == self.deltas else 0
        return counts.as_usage(completion=current or self.tokens, estimated=True)

    def _delta(self, choice: Choice, split_char: bool) -> Delta | None:
        message = choice.delta if choice.delta is not None else choice.message
        if message is None:
            if choice.text is None:
                return None
            message = Message(choice.text)
        text = message.content or ""
        reasoning = message.reasoning_content or message.reasoning or ""
        refusal = message.refusal or ""
        calls = self._tool_calls(message, whole=choice.delta is None)
        logprobs = choice.logprobs.entries if choice.logprobs is not None else None
        if split_char:
            text = self._join("content", text)
            reasoning = self._join("reasoning", reasoning)
            refusal = self._join("refusal", refusal)
            calls = tuple(self._join_call(call) for call in calls)
            logprobs = tuple(map(_clean_logprob, logprobs or ()))
            self._char_pending = any(joiner.pending for joiner in self._joiners.values())
        if not (text or reasoning or calls or logprobs or refusal):
            return None
        self.deltas += 1
        return Delta(text, reasoning, calls, logprobs or (), refusal=refusal)

    def _tool_calls(self, message: Message, *, whole: bool) -> tuple[ToolCallDelta, ...]:
        if message.tool_calls:
            return self._calls.read(message.tool_calls, whole=whole)
        if message.function_call is not None:  # OpenAI's older form, of one call
            return self._calls.read([ToolCallPiece(0, None, message.function_call)], whole=whole)
        return ()

    def _with_tokens(self, delta: Delta, timings: Timings | None, counts: Counts | None) -> Delta:
        """Set the delta's tokens: the engine's count so far, less those of earlier deltas."""
        told = timings.predicted_n if timings is not None else 0
        if told <= 0 and counts is not None and self._continuous_usage:
            told = counts.completion
        tokens = 1
        if told > 0 and (told != self.tokens + 1 or told > MAX_TOKENS):
            tokens = max(0, min(told, MAX_TOKENS) - self.tokens)
        self.tokens += tokens
        return delta if tokens == 1 else msgspec.structs.replace(delta, tokens=tokens)

    def _join(self, stream: str, piece: str) -> str:
        joiner = self._joiners.get(stream)
        if joiner is None:
            joiner = self._joiners[stream] = CharacterJoiner()
        return joiner.feed(piece) if piece else ""

    def _join_call(self, call: ToolCallDelta) -> ToolCallDelta:
        arguments = self._join(f"arguments {call.index}", call.arguments)
        return msgspec.structs.replace(call, arguments=arguments)

    def _pending(self, *, cut: bool) -> list[Event]:
        """What was held: halves of characters, and the rest of tool calls."""
        rests = {stream: joiner.flush() for stream, joiner in self._joiners.items()}
        calls = tuple(
            ToolCallDelta(int(stream.removeprefix("arguments ")), arguments=rest)
            for stream, rest in rests.items()
            if rest and stream.startswith("arguments ")
        )
        calls += self._calls.end(cut=cut)
        held = Delta(
            rests.get("content", ""),
            rests.get("reasoning", ""),
            calls,
            refusal=rests.get("refusal", ""),
        )
        return [held] if held.text or held.reasoning or held.tool_calls or held.refusal else []


def _is_error(error: Any) -> bool:
    """True unless it is empty: ``{}``, or an object of which no field says anything."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


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
    return BackendError("The model's backend sent what can't be read. Try again.", reason=reason)
