"""A request to generate text, validated, whichever dialect it came in."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """One generation. Every value is within the bounds of docs/protocol.md#the-request.

    ``messages`` are plain dictionaries in OpenAI's shape: ``role``, ``content`` (a string, or None
    beside ``tool_calls``), ``tool_calls``, ``reasoning_content`` or ``tool_call_id`` where the role
    has them, and ``name``. Optional fields are None (or empty) where the client didn't set them;
    ``top_k`` 0 and ``min_p`` 0.0 mean *off*. ``response_format``, ``tools`` and ``tool_choice`` are
    in OpenAI's shape.

    ``answer_so_far`` never comes from the client: it is the beginning of an answer that broke, for
    another backend to continue. ``max_tokens`` then counts the tokens after it.
    """

    model: str
    messages: list[dict[str, Any]]
    temperature: float = 0.7
    max_tokens: int = 256
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stream: bool = False
    include_usage: bool = False
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    answer_so_far: str = ""
    prompt_size: int = -1
    """Tokens of the prompt, estimated when the request is made."""

    def __post_init__(self) -> None:
        if self.prompt_size < 0:
            msgspec.structs.force_setattr(self, "prompt_size", _prompt_size(self))

    @property
    def size(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return self.prompt_size + self.max_tokens


def _prompt_size(request: GenerateRequest) -> int:
    """A token is rarely shorter than three bytes of text; each message costs a few more."""
    size = sum(
        _size(message.get(field) or "")
        for message in request.messages
        for field in ("content", "reasoning_content", "name")
    )
    size += sum(
        _size(str(message["tool_calls"])) for message in request.messages if "tool_calls" in message
    )
    if request.tools:
        size += _size(str(request.tools))
    return size // 3 + 8 * len(request.messages) + 32


def _size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
