"""What is asked: prompts made of words with a seed, or those of a file.

Rule: the same seed gives the same prompts, and no two of them are alike, so that no answer comes
out of a cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

_TEXT = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work government number night point
home water room mother area money story fact month lot right study book eye job word business issue
side kind head house service friend father power hour game line end member law car city community
name president team minute idea body information back parent face others level office door health
person art war history party result change morning reason research girl moment air teacher force
"""
_WORDS = _TEXT.split()
"""Each is one token, with the space before it, in the vocabularies of usual models."""


class Question(Struct, frozen=True):
    """What one request asks."""

    messages: Sequence[Any]
    max_tokens: int | None = None
    """Of its answer; None: as many as the other requests."""


class PromptFileError(Exception):
    """A file of prompts can't be used. The message says which line, and what it must be."""


def synthetic(tokens: int, seed: int) -> Iterator[Question]:
    """Prompts of about so many tokens, a word for each, without end."""
    chosen = random.Random(seed)
    while True:
        yield _question(" ".join(chosen.choices(_WORDS, k=tokens)))


def from_file(path: Path) -> Iterator[Question]:
    """The questions of a JSONL file, one after the other, and anew from the first.

    A line is a string or an object. An object has ``messages``, ``prompt`` or ``text``, and may
    have ``max_tokens`` or ``output_tokens``.

    Raises:
        PromptFileError: it can't be read, or holds something else.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise PromptFileError(f"{path} can't be read: {error.strerror}") from error
    read = [
        _from_line(line, f"line {number} of {path}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not read:
        raise PromptFileError(f"{path} has no prompt: write one JSON string or object a line")
    return cycle(read)


def bodies(
    questions: Iterable[Question], fields: dict[str, Any], *, stream: bool
) -> Iterator[bytes]:
    """The requests' bodies.

    Args:
        fields: of each of them.
    """
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    for question in questions:
        own = {} if question.max_tokens is None else {"max_tokens": question.max_tokens}
        yield msgspec.json.encode({"messages": question.messages, **streamed, **fields, **own})


def _question(prompt: str, max_tokens: int | None = None) -> Question:
    return Question([{"role": "user", "content": prompt}], max_tokens)


def _from_line(line: bytes, where: str) -> Question:
    try:
        entry = msgspec.json.decode(line)
    except msgspec.MsgspecError as error:
        raise PromptFileError(f"{where} isn't JSON") from error
    if isinstance(entry, str):
        return _question(entry)
    if isinstance(entry, dict):
        wanted = entry.get("max_tokens", entry.get("output_tokens"))
        if wanted is not None and not (isinstance(wanted, int) and wanted > 0):
            raise PromptFileError(f"{where} has max_tokens that is no count")
        prompt = entry.get("prompt", entry.get("text"))
        if isinstance(entry.get("messages"), list):
            return Question(entry["messages"], wanted)
        if isinstance(prompt, str):
            return _question(prompt, wanted)
    raise PromptFileError(f'{where} is neither a string nor an object with "prompt" or "messages"')
