"""A request to go on with a prompt that is taken as it is → ``GenerateRequest``.

Source: the types of openai-python 3.57, ``types/completion_create_params.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias

from msgspec.structs import replace
from pydantic import Discriminator, Field, StrictBool, Tag, ValidationError

from reverie.http.request.mistakes import decode_object, error_of, mistakes_of
from reverie.http.request.sampling import choices_of, sampling_of
from reverie.http.request.schema import (
    LAX,
    MAX_CHOICES,
    UNSUPPORTED,
    MaxTokens,
    Sampling,
    union_by_form,
)
from reverie.http.request.validation import Mistake, mistakes_of_sampling
from reverie.request import GenerateRequest

_MAX_TOKEN = 2**31 - 1

_Token: TypeAlias = Annotated[int, Field(ge=0, le=_MAX_TOKEN, strict=True)]
_Tokens: TypeAlias = Annotated[list[_Token], Field(min_length=1, fail_fast=True)]
_Text: TypeAlias = Annotated[str, Field(min_length=1)]


def _form_of_list(value: Any) -> str:
    """Which list a prompt is, by its first item."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, str):
        return "<texts>"
    return "<prompts>" if isinstance(first, list) else "<tokens>"


_Prompt: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[_Text, Tag("<string>")]
    | Annotated[
        Annotated[
            Annotated[list[_Text], Field(max_length=MAX_CHOICES, fail_fast=True), Tag("<texts>")]
            | Annotated[
                list[_Tokens], Field(max_length=MAX_CHOICES, fail_fast=True), Tag("<prompts>")
            ]
            | Annotated[_Tokens, Tag("<tokens>")],
            Discriminator(_form_of_list),
        ],
        Tag("<array>"),
    ],
    "a string, a list of strings, a list of tokens, or a list of such lists",
)


class CompletionRequest(Sampling):
    prompt: _Prompt
    """The text to go on with, or its tokens; several are answered side by side."""
    suffix: str | None = None
    """What comes after the answer, where the engine can fill a gap."""
    max_tokens: MaxTokens = 16
    temperature: Annotated[float, Field(ge=0, le=2), LAX] = 1.0
    echo: StrictBool = False
    """Begin the answer with the prompt."""
    logprobs: Annotated[int, Field(ge=0, le=5), LAX] | None = None
    """Give the log-probability of each token, and this many alternatives."""
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES), LAX] | None = None


def parse(raw: bytes) -> tuple[list[GenerateRequest], tuple[str, ...]]:
    """Parse and check a request's body.

    Returns:
        The generations of all choices, and the text that each begins with: its prompt's, if that
        is to be repeated.

    Raises:
        UnsupportedParameter: its only mistakes are fields that aren't honoured here.
        InvalidRequest: it has any other mistake.
    """
    body = decode_object(raw)
    try:
        asked = CompletionRequest.model_validate(body)
    except ValidationError as error:
        raise error_of(mistakes_of(error)) from None
    prompts = _prompts(asked.prompt)
    mistakes = [*_mistakes(asked, prompts), *mistakes_of_sampling(asked, asked.max_tokens)]
    if mistakes:
        raise error_of(mistakes)
    first = GenerateRequest(
        **sampling_of(asked),
        messages=[],
        prompt=prompts[0],
        suffix=asked.suffix or None,
        max_tokens=asked.max_tokens,
        logprobs=asked.logprobs is not None,
        top_logprobs=asked.logprobs or 0,
    )
    others = [replace(first, prompt=prompt, prompt_bound=-1) for prompt in prompts[1:]]
    requests = [choice for one in (first, *others) for choice in choices_of(one, asked.n)]
    echoes = tuple(str(one.prompt) if asked.echo else "" for one in requests)
    return requests, echoes


def _prompts(prompt: str | list[Any]) -> list[str | tuple[int, ...]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [tuple(prompt)]
    return [one if isinstance(one, str) else tuple(one) for one in prompt]


def _mistakes(asked: CompletionRequest, prompts: list[str | tuple[int, ...]]) -> Iterator[Mistake]:
    if len(prompts) * asked.n > MAX_CHOICES:
        yield Mistake(("n",), f"All prompts should have {MAX_CHOICES} or fewer answers together")
    options = asked.stream_options
    if len(prompts) > 1 and options is not None and options.continuous_usage_stats:
        yield Mistake(
            ("stream_options", "continuous_usage_stats"),
            "This is not supported together with several prompts",
            UNSUPPORTED,
        )
    if asked.best_of not in (None, asked.n):
        yield Mistake(("best_of",), "This is supported only as the same number as n", UNSUPPORTED)
    if asked.echo and any(isinstance(prompt, tuple) for prompt in prompts):
        yield Mistake(("echo",), "This is supported only for prompts as text", UNSUPPORTED)
    if asked.echo and asked.logprobs is not None:
        yield Mistake(("echo",), "This is not supported together with logprobs", UNSUPPORTED)
