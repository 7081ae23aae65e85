"""What a scripted engine answers, and in which way it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Token: TypeAlias = str | bytes
"""One piece of text. Bytes are written raw into the JSON, even where they aren't UTF-8."""

Tokens: TypeAlias = Sequence[Token] | Callable[[dict[str, Any]], Sequence[Token]]


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool call to stream: the name first, then each of the ``arguments`` as one token."""

    name: str
    arguments: Sequence[str] = ("{}",)
    id: str = "call_1"


@dataclass(frozen=True, kw_only=True)
class Script:
    """One answer. The defaults give a plain good one; each fault is one field.

    Delays are in seconds, counts in tokens, and byte offsets are from the start of the body. The
    pieces of ``reasoning``, ``tokens`` and ``tool_calls`` are sent in this order, each as one
    token.

    Raises:
        ValueError: the fields contradict each other.
    """

    # Content -------------------------------------------------------------------------------
    tokens: Tokens = ("Hello", " world")
    """The text, or a function that makes it from the request's body."""
    reasoning: Sequence[str] = ()
    """Pieces of ``reasoning_content``."""
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: str | None = None
    """None: ``tool_calls`` after tool calls, otherwise ``stop``. ``max_tokens`` makes it
    ``length``."""
    prompt_tokens: int = 10
    cached_tokens: int = 0
    usage: bool = True
    """False never reports usage."""
    logprobs: bool = True
    """False sends no log-probabilities, even when they are asked for."""
    continues: bool = True
    """False ignores ``continue_final_message`` and starts anew, as some engines do."""

    # Pace ----------------------------------------------------------------------------------
    delay_headers: float = 0.0
    """Before the status line."""
    first_delay: float = 0.0
    """Before the first token, after the headers."""
    delay: float = 0.0
    """Before each further write."""

    # Pieces --------------------------------------------------------------------------------
    batch: int | None = 1
    """Tokens per write; None writes the whole answer at once, unless delays or faults split it."""
    split: int | None = None
    """Cut the body into pieces of this many bytes and send each by itself."""
    cuts: Sequence[int] = ()
    """Cut the body at these offsets instead."""
    gap: float = 0.0
    """Delay between cut pieces. 0 separates them for a client in the same event loop; a client in
    another process may read several at once."""
    comments: bool = False
    """An SSE comment (``: ping``) before each event."""
    crlf: bool = False
    """Lines end with ``\\r\\n``."""
    role_chunk: bool = True
    """Begin with ``delta: {"role": "assistant", "content": null}``, as llama.cpp does."""
    keep_alive: bool = True
    """False closes the connection after the answer without announcing it."""

    # Failures in the answer ----------------------------------------------------------------
    die_after: int | None = None
    """Break off after this many tokens."""
    die_at_byte: int | None = None
    """Break off after this many bytes of the body."""
    die_how: Literal["reset", "close", "end"] = "reset"
    """``reset`` the connection, ``close`` it in mid-body, or ``end`` the body properly but too
    early."""
    stall_after: int | None = None
    """Fall silent after this many tokens, until the client leaves or ``engine.resume()``."""
    stall_pings: float | None = None
    """Seconds between SSE comments while silent; None sends none."""
    error_in_stream: Mapping[str, Any] | None = None
    """An error object within a stream of status 200; ``[DONE]`` follows, unless ``no_done``."""
    error_after: int = 0
    """Tokens before that error."""
    no_finish: bool = False
    """Leave out the chunk with the finish reason."""
    no_done: bool = False
    """Leave out ``[DONE]``."""
    force_json: bool = False
    """Answer with one JSON body although a stream was asked for."""

    # Instead of an answer ------------------------------------------------------------------
    status: int = 200
    """Any other status than 200 sends an error."""
    error: Mapping[str, Any] | None = None
    """The error object, with any status; default: one in OpenAI's shape. Missing ``message``,
    ``type``, ``param`` and ``code`` are filled in, unless it has an ``error`` of its own."""
    retry_after: float | None = None
    """Sent as ``Retry-After``."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """More response headers; they replace others of the same name."""
    html: bool = False
    """An HTML page, as a proxy in front of an engine sends."""
    body: bytes | None = None
    """Any body, with the usual headers."""
    raw: bytes | None = None
    """Bytes instead of an HTTP response, then ``die_how``; ``b""`` hangs up at once."""

    def __post_init__(self) -> None:
        if isinstance(self.tokens, str | bytes):
            raise ValueError('tokens must be a sequence of pieces, such as ("Hello", " world")')
        if self.batch is not None and self.batch < 1:
            raise ValueError("batch must be at least 1, or None for one write")
        if self.split is not None and self.split < 1:
            raise ValueError("split must be at least 1")
        if self.split is not None and self.cuts:
            raise ValueError("split and cuts exclude each other")

    @property
    def one_write(self) -> bool:
        """True if the whole answer leaves in one write."""
        faults = (self.die_after, self.stall_after, self.error_in_stream)
        return (
            self.batch is None and not self.first_delay and all(fault is None for fault in faults)
        )

    @property
    def instant(self) -> bool:
        """True if it does so at once and undamaged, and the connection stays open."""
        return (
            self.one_write
            and not self.delay_headers
            and self.split is None
            and not self.cuts
            and self.die_at_byte is None
            and self.raw is None
            and self.keep_alive
        )
