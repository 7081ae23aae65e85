"""How each kind of engine is asked for the number of tokens of a prompt.

llama.cpp's ``/v1/chat/completions/input_tokens`` takes the body that it would generate from; its
``/tokenize`` takes a text, and answers with the tokens.
vLLM's ``/tokenize``, which SGLang has too, takes the part of it from which the prompt is rendered,
and answers with the tokens beside their ``count``.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from reverie.settings import BackendKind

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Of an answer that lists each token."""

KINDS: frozenset[BackendKind] = frozenset({"llamacpp", "vllm", "sglang"})
"""The kinds that can be asked."""

_RENDERED = (
    "model",
    "messages",
    "prompt",
    "tools",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
)
_COUNT = re.compile(rb'"(?:input_tokens|count)"\s*:\s*(\d{1,9})\b')


class _Tokens(Struct):
    """llama.cpp's answer, which lists the tokens."""

    tokens: list[int]


class Question(NamedTuple):
    """A POST. ``path`` is relative to the engine's URL; with a leading slash, to its root."""

    path: str
    body: bytes


def question(body: bytes, kind: BackendKind, prompt: str | None = None) -> Question:
    """What to ask an engine of one of ``KINDS``.

    Args:
        body: what it would generate from.
        prompt: that of a completion, which it would take as it is.
    """
    if kind == "llamacpp" and prompt is None:
        return Question("chat/completions/input_tokens", body)
    if kind == "llamacpp":
        asked = {"content": prompt, "add_special": True}
        return Question("/tokenize", msgspec.json.encode(asked))
    fields: dict[str, Any] = msgspec.json.decode(body)
    rendered = {name: fields[name] for name in _RENDERED if name in fields}
    return Question("/tokenize", msgspec.json.encode(rendered))


def count_in(answer: bytes) -> int | None:
    """The count in an engine's answer; None if it has none."""
    found = _COUNT.search(answer)
    if found:
        return int(found[1])
    try:
        return len(msgspec.json.decode(answer, type=_Tokens).tokens)
    except msgspec.DecodeError:
        return None
