"""The most tokens that a prompt can come to, by its text, its tools and its images."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, NamedTuple

_PER_MESSAGE = 8
"""Tokens of a chat template for each message: its role, and the marks around it."""
_PER_PROMPT = 32
"""Tokens of a chat template for each prompt, such as a system message of its own."""
_PER_TEXT = 4
"""Tokens that mark the ends of a text that no chat template is around."""
_PER_TOOLS = 256
"""Tokens in which a chat template explains how tools are called (SmolLM2: 142)."""
IMAGE_TOKENS = 4096
"""Tokens that an image comes to, at most, until an engine has told more. Most models take fewer:
LLaVA-1.5 576, Gemma 3 256, LLaVA-NeXT 2,880; Qwen2-VL takes one for every 28 × 28 pixels."""
_USUAL_IMAGE_TOKENS = 1024
"""Tokens of an image for a bill without a count: of 900 × 900 pixels on Qwen2-VL."""


def images_in(message: dict[str, Any]) -> list[str]:
    """The URLs of a message's images."""
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def text_of(message: dict[str, Any]) -> str:
    """A message's text, with a line for each part of it."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def bound_of(messages: list[dict[str, Any]]) -> int:
    """The most tokens that these messages can come to within a prompt.

    No tokenizer that knows all bytes, as those of language models do, has more tokens for a text
    than the text has bytes in UTF-8.
    """
    template = _PER_MESSAGE * len(messages)
    return sum(map(_message_bytes, messages)) + template + IMAGE_TOKENS * _images(messages)


def _images(messages: list[dict[str, Any]]) -> int:
    return sum(len(images_in(m)) for m in messages if isinstance(m.get("content"), list))


class Extent(NamedTuple):
    """What a prompt comes to."""

    bound: int
    """The most tokens that it can have."""
    estimate: int
    """The tokens that it would have as English."""
    images: int


def extent(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> Extent:
    """What a prompt comes to."""
    size = sum(map(_message_bytes, messages))
    template = _PER_PROMPT + _PER_MESSAGE * len(messages)
    if tools:
        size += _json_bytes(tools)
        template += _PER_TOOLS
    images = _images(messages)
    return Extent(
        size + template + images * IMAGE_TOKENS,
        size // 3 + template + images * _USUAL_IMAGE_TOKENS,
        images,
    )


def bound_of_text(text: str) -> int:
    """The most tokens that a text can come to by itself, with the marks around it.

    Models that embed often normalise first (NFKC), which makes some characters many.
    """
    size = _bytes(text)
    if not text.isascii():
        size = max(size, _bytes(unicodedata.normalize("NFKC", text)))
    return size + _PER_TEXT


def estimate_of_text(text: str) -> int:
    """The tokens that it would have as English."""
    return _bytes(text) // 3 + _PER_TEXT


def extent_of_prompt(prompt: str | tuple[int, ...]) -> Extent:
    """What a prompt comes to that is taken as it is, with the marks that an engine adds."""
    if isinstance(prompt, tuple):
        return Extent(len(prompt) + _PER_TEXT, len(prompt), 0)
    return Extent(_bytes(prompt) + _PER_TEXT, estimate_of_text(prompt), 0)


def _message_bytes(message: dict[str, Any]) -> int:
    others = message.get("reasoning_content"), message.get("name")
    size = _bytes(text_of(message)) + sum(_bytes(text) for text in others if text)
    calls = message.get("tool_calls")
    return size + _json_bytes(calls) if calls else size


def _bytes(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _json_bytes(value: object) -> int:
    """Bytes of a value as a chat template writes it, which may escape what isn't ASCII."""
    return len(json.dumps(value))
