"""``POST /tokenize`` and ``/detokenize``: text ↔ token ids, for llama.cpp's and vLLM's clients."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt, StrictStr

from reverie.http.request.schema import Wire
from reverie.http.tasks.asked import MAX_INT32, Asked, mistake, read
from reverie.tasks import DetokenizeRequest, Text, TokenizeRequest, Tokens

_NAMES = ("content", "prompt", "text")


class TokenizeBody(Wire):
    """A text, under one of three names."""

    content: StrictStr | None = None
    """llama.cpp's name."""
    prompt: StrictStr | None = None
    """vLLM's name."""
    text: StrictStr | None = None
    model: str = Field(default="", max_length=200)
    """The model's name; empty takes the default model."""
    add_special: StrictBool | None = None
    """With the tokens that a prompt begins or ends with. By default only those of `prompt` are
    added, as by vLLM."""
    add_special_tokens: StrictBool | None = None
    """vLLM's name of `add_special`."""


class DetokenizeBody(Wire):
    """Token ids."""

    tokens: list[Annotated[StrictInt, Field(ge=0, le=MAX_INT32)]] = Field(fail_fast=True)
    model: str = Field(default="", max_length=200)
    """The model's name; empty takes the default model."""


def parse_text(body: bytes) -> Asked[Tokens]:
    """Parse and check a request to split a text.

    Raises:
        InvalidRequest, UnsupportedParameter
    """
    asked = read(body, TokenizeBody)
    given = [name for name in _NAMES if getattr(asked, name) is not None]
    if not given:
        raise mistake(_NAMES[0], "Field required", "missing")
    if len(given) > 1:
        raise mistake(given[1], f"This is another name of {given[0]}: give one of them")
    if None not in (asked.add_special, asked.add_special_tokens):
        raise mistake("add_special_tokens", "This is another name of add_special: give one of them")
    special = asked.add_special if asked.add_special_tokens is None else asked.add_special_tokens
    if special is None:
        special = given[0] == "prompt"

    def answer(result: Tokens, model: str, _tokens: int, _estimated: bool) -> Any:
        return {"tokens": result.ids, "count": len(result.ids), "model": model}

    return Asked(asked.model, TokenizeRequest(getattr(asked, given[0]), special), answer)


def parse_tokens(body: bytes) -> Asked[Text]:
    """Parse and check a request to join tokens.

    Raises:
        InvalidRequest, UnsupportedParameter
    """
    asked = read(body, DetokenizeBody)

    def answer(result: Text, model: str, _tokens: int, _estimated: bool) -> Any:
        return {"content": result.text, "prompt": result.text, "model": model}

    return Asked(asked.model, DetokenizeRequest(asked.tokens), answer)
