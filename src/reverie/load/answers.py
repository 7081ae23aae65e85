"""What is read of an answer, sans-IO: its bytes and when they came in, its tokens' moments out.

Rule 1: a token comes when the bytes that complete its event do. Events that bring no content (a
role, the usage, a comment) are no tokens.

Rule 2: tokens are counted by the server, in ``usage``. Where it tells none, events with content are
counted, and ``counted_here`` says so.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
from msgspec import Struct

from reverie.backends.decoding.sse import ProtocolError, SSEParser

_MAX_REFUSAL = 64 * 1024
"""Bytes of a refusal that are read for its sentence."""
_DONE = b"[DONE]"


class Failure(Struct, frozen=True):
    """Why a request has no whole answer: what kind of failure it is, and what the server said."""

    name: str
    sentence: str = ""


class Outcome(Struct, kw_only=True):
    """One request. Moments are in seconds, on the clock of ``time.perf_counter``."""

    started: float
    first: float = 0.0
    """When the first token came; 0: none came, or the answer isn't streamed."""
    last: float = 0.0
    """When the last token came, or a whole answer."""
    prompt_tokens: int = 0
    tokens: int = 0
    counted_here: bool = False
    gaps: array[float] = msgspec.field(default_factory=lambda: array("d"))
    """Seconds between each event with content and the next."""
    failure: Failure | None = None

    @property
    def ttft(self) -> float:
        """Time to first token: from the request to the first token with content."""
        return self.first - self.started

    @property
    def latency(self) -> float:
        """From the request to the last token."""
        return self.last - self.started

    @property
    def itl(self) -> float | None:
        """Inter-token latency, also named time per output token; None: there was one token."""
        if not self.first or self.tokens < 2:
            return None
        return (self.last - self.first) / (self.tokens - 1)


class AnswerReader:
    """Reads one answer. ``status`` must be set before the first bytes of its body are fed."""

    __slots__ = ("_body", "_events", "_failure", "_finished", "_moments", "_stream", "_usage",
                 "started", "status")  # fmt: skip

    def __init__(self, started: float, *, stream: bool) -> None:
        self.started = started
        self.status = 200
        self._stream = stream
        self._events = SSEParser()
        self._body = bytearray()  # of what is no stream
        self._moments: list[float] = []
        self._usage: _Usage | None = None
        self._finished = False
        self._failure: Failure | None = None

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes of the body, which came just now."""
        if not self._stream or self.status != 200:
            self._body += data
            return
        try:
            for payload in self._events.feed(data):
                self._read(payload, now)
        except (ProtocolError, msgspec.MsgspecError):
            self._failure = Failure("the answer isn't one of an OpenAI-compatible server")

    def end(self, now: float) -> Outcome:
        """The whole response has come."""
        if self.status != 200:
            return self.fail(_refusal(self.status, bytes(self._body[:_MAX_REFUSAL])))
        if not self._stream:
            return self._whole(now)
        if self._failure is None and not self._moments:
            self._failure = Failure("an answer without a token")
        elif self._failure is None and not self._finished:
            self._failure = Failure("the answer broke off")
        return self._outcome()

    def fail(self, failure: Failure) -> Outcome:
        """No more comes."""
        self._failure = self._failure or failure
        return self._outcome()

    def _read(self, payload: bytes, now: float) -> None:
        if payload == _DONE:
            self._finished = True
            return
        chunk = _decode_chunk(payload)
        if chunk.error is not None:
            self._failure = self._failure or _told("in mid-answer", chunk.error)
            return
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices:
            if choice.delta.has_content:
                self._moments.append(now)
            if choice.finish_reason:
                self._finished = True

    def _whole(self, now: float) -> Outcome:
        try:
            answer = msgspec.json.decode(self._body, type=_Answer)
        except msgspec.MsgspecError:
            return self.fail(Failure("the answer isn't one of an OpenAI-compatible server"))
        self._usage = answer.usage
        if not any(choice.message.has_content for choice in answer.choices):
            self._failure = Failure("an answer without a token")
        outcome = self._outcome()
        outcome.last = now
        return outcome

    def _outcome(self) -> Outcome:
        moments, usage = self._moments, self._usage
        counted = usage is not None and usage.completion_tokens > 0
        return Outcome(
            started=self.started,
            first=moments[0] if moments else 0.0,
            last=moments[-1] if moments else 0.0,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            tokens=usage.completion_tokens if usage and counted else len(moments),
            counted_here=not counted,
            gaps=array("d", map(float.__sub__, moments[1:], moments)),
            failure=self._failure,
        )


class _Text(Struct):
    """A message, or a piece of one."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None

    @property
    def has_content(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning or self.tool_calls)


class _Choice(Struct):
    delta: _Text = msgspec.field(default_factory=_Text)
    message: _Text = msgspec.field(default_factory=_Text)
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(Struct):
    """A chunk of an answer, or a whole one."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Answer).decode


def _refusal(status: int, body: bytes) -> Failure:
    try:
        said = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        said = None
    error = said.get("error", said) if isinstance(said, dict) else None
    return _told(f"status {status}", error)


def _told(where: str, error: Any) -> Failure:
    """An error as servers tell it: an object with ``message`` and ``code``, or a sentence."""
    if not isinstance(error, dict):
        return Failure(where, error if isinstance(error, str) else "")
    code, message = error.get("code"), error.get("message", error.get("detail"))
    named = f"{where}, {code}" if isinstance(code, str) and code else where
    return Failure(named, message if isinstance(message, str) else "")
