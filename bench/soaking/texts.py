"""What scripted engines say, so that clients know each answer to the letter. No I/O.

A prompt names its story and how many words of it are wanted. Every engine says the same to it, and
a word is a token, so that an answer may break off anywhere and go on elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

PROMPT_TOKENS = 10
"""What every prompt comes to."""
CALL = ("weather", ('{"city":', '"Paris"}'))
"""The tool that the model which calls tools calls, and the pieces of its arguments."""
CALL_TOKENS = 1 + len(CALL[1])

_ASKED = re.compile(r"Say (\d+) words of story (\d+)\.")


def prompt(words: int, story: int) -> str:
    return f"Say {words} words of story {story}."


def tokens(words: int, story: int) -> list[str]:
    """The words of an answer, each with the space after it."""
    return [f"w{(story * 7919 + number * 104_729) % 9973} " for number in range(words)]


def text(words: int, story: int) -> str:
    return "".join(tokens(words, story))


def count(said: str) -> int:
    """The tokens of a beginning of an answer that ends after a word."""
    return said.count(" ")


def tokens_for(body: dict[str, Any]) -> Sequence[str]:
    """What an engine says to a request: a conversation's, or a prompt's as it is."""
    asked = body.get("prompt")
    if asked is None:
        said = [one.get("content") for one in body["messages"] if one.get("role") == "user"]
        asked = json.dumps(said)
    found = _ASKED.search(str(asked))
    return tokens(int(found[1]), int(found[2])) if found else ("nothing ",)
