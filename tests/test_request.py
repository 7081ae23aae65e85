"""What a request may come to."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.prompt_bounds import IMAGE_TOKENS, bound_of
from reverie.request import GenerateRequest


def size(**fields: Any) -> int:
    return GenerateRequest(model="", messages=[], **fields).prompt_size


def test_all_that_reaches_the_engine_counts_as_prompt() -> None:
    plain = GenerateRequest(model="", messages=[{"role": "user", "content": "x" * 300}])
    for more in (
        {"reasoning_content": "y" * 300},
        {"name": "y" * 300},
        {"tool_calls": ["y" * 300]},
    ):
        richer = GenerateRequest(model="", messages=[{**plain.messages[0], **more}])
        assert richer.prompt_size >= plain.prompt_size + 100
    assert size(tools=[{"type": "function", "name": "y" * 300}]) >= size() + 100


@pytest.mark.parametrize("text", ["x" * 300, "ü" * 150, "\U0001f600" * 75, "\ud800" * 100])
def test_a_prompt_is_measured_in_bytes(text: str) -> None:
    request = GenerateRequest(model="", messages=[{"role": "user", "content": text}])
    assert request.prompt_size == 300 + 8 + 32
    assert request.prompt_estimate == 300 // 3 + 8 + 32


def test_a_request_may_come_to_its_prompt_and_its_answer() -> None:
    request = GenerateRequest(model="", messages=[], max_tokens=5)
    assert request.size == request.prompt_size + 5


def test_an_image_counts_as_many_tokens_as_one_may_have_whatever_its_bytes() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    text = {"type": "text", "text": "x" * 300}
    plain = GenerateRequest(model="", messages=[{"role": "user", "content": "x" * 300}])
    seeing = GenerateRequest(model="", messages=[{"role": "user", "content": [text, image, image]}])
    assert seeing.prompt_size == plain.prompt_size + 2 * IMAGE_TOKENS
    assert bound_of(seeing.messages) == bound_of(plain.messages) + 2 * IMAGE_TOKENS
    assert plain.prompt_estimate < seeing.prompt_estimate < seeing.prompt_size
