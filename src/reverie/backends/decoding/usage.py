"""What an engine says of tokens, made to add up.

Rule 1: parts never exceed the whole. ``total_tokens`` beyond prompt and completion is thinking that
the engine counts nowhere else, so it is completion; cached tokens beyond the prompt are ones that
the engine left out of it, so they are prompt.

Rule 2: zero says nothing, and neither does what can't be a count. What was told before stays.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from reverie.events import Usage

MAX_TOKENS = 2**31 - 1

_MAX_DETAILS = 16
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DIGITS = re.compile(r"\d{1,10}")


class Counts(Struct, frozen=True):
    """The counts that an engine has told so far; 0: not told."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    prompt_details: dict[str, int] = {}
    completion_details: dict[str, int] = {}

    def with_later(self, later: Counts) -> Counts:
        """These, replaced by what a later chunk says; its zeros replace nothing."""
        if (
            later.prompt
            and later.completion
            and not (self.cached or self.prompt_details or self.completion_details)
        ):
            return later
        prompt = later.prompt or self.prompt
        return Counts(
            prompt,
            later.completion or self.completion,
            min(later.cached or self.cached, prompt),
            self.prompt_details | later.prompt_details,
            self.completion_details | later.completion_details,
        )

    def as_usage(self, *, completion: int, estimated: bool) -> Usage:
        return Usage(
            self.prompt,
            completion,
            self.cached,
            estimated=estimated,
            prompt_details=self.prompt_details,
            completion_details=self.completion_details,
        )


def read_counts(usage: Any) -> Counts | None:
    """The counts in a ``usage`` object; None if it tells none, or impossible ones."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    total = _count(usage.get("total_tokens")) or 0
    prompt_details = _details(usage.get("prompt_tokens_details"))
    completion_details = _details(usage.get("completion_tokens_details"))
    cached = prompt_details.pop("cached_tokens", 0)
    beyond = total - prompt - completion
    if cached > prompt or (cached and cached == beyond):
        prompt += cached
        beyond -= cached
    reasoning = completion_details.get("reasoning_tokens", 0)
    if not total and reasoning > completion:
        completion += reasoning
    elif beyond > 0:
        if prompt:
            completion += beyond
        elif completion:
            prompt = beyond
    if not (prompt or completion) or max(prompt, completion) > MAX_TOKENS:
        return None
    return Counts(prompt, completion, cached, prompt_details, completion_details)


def _count(value: Any) -> int | None:
    """A count, 0 if there is none; None if the value can't be one. ``7.0`` and ``"7"`` are 7."""
    if value is None:
        return 0
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_TOKENS else None


def _details(details: Any) -> dict[str, int]:
    """The counts of a ``…_details`` object, without what isn't one."""
    if not isinstance(details, dict):
        return {}
    counted = {
        name: count
        for name, value in details.items()
        if _NAME.fullmatch(name) and value is not None and (count := _count(value)) is not None
    }
    return dict(list(counted.items())[:_MAX_DETAILS])
