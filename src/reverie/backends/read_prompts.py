"""Which conversations an engine has read before, and so how much of a prompt is new to it."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import msgspec

from reverie.backends.prompt_turns import SHORT
from reverie.request import GenerateRequest

_MAX_KNOWN = 256
"""Conversations that are remembered. An engine's cache holds fewer."""


class ReadPrompts:
    """The prompts that were read of late. Short ones don't matter, and aren't kept."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[bytes, int] = OrderedDict()

    def remember(self, request: GenerateRequest) -> None:
        """Note that a prompt has been read."""
        if request.prompt is not None or request.prompt_estimate <= SHORT:
            return
        key = _key(request, len(request.messages))
        self._tokens[key] = request.prompt_estimate
        self._tokens.move_to_end(key)
        if len(self._tokens) > _MAX_KNOWN:
            self._tokens.popitem(last=False)

    def tokens_to_read(self, request: GenerateRequest) -> int:
        """About how many tokens of a prompt are left to read, if its conversation goes on.

        What comes before the last message of the assistant was the prompt of that message.
        """
        tokens = request.prompt_estimate
        if request.prompt is not None or tokens <= SHORT:
            return tokens
        messages = request.messages
        answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            return tokens
        return tokens - self._tokens.get(_key(request, answers[-1]), 0)


def _key(request: GenerateRequest, count: int) -> bytes:
    """A hash of the first messages and of the tools."""
    asked = (request.messages[:count], request.tools)
    return blake2b(msgspec.json.encode(asked), digest_size=16).digest()
