"""How each kind of engine is asked for the size of a prompt, and what it answers."""

from __future__ import annotations

import json

import pytest

from reverie.backends.encoding.counting import count_in, question

BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "stream": True,
    "temperature": 0.7,
}


def test_llama_cpp_is_asked_with_what_it_would_generate_from() -> None:
    body = json.dumps(BODY).encode()
    assert question(body, "llamacpp") == ("chat/completions/input_tokens", body)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_others_are_asked_with_what_the_prompt_is_rendered_from(kind: str) -> None:
    path, body = question(json.dumps(BODY).encode(), kind)  # type: ignore[arg-type]
    assert path == "/tokenize"
    assert json.loads(body) == {name: BODY[name] for name in ("model", "messages", "tools")}


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (b'{"input_tokens":630,"object":"response.input_tokens"}', 630),
        (b'{"count": 3, "max_model_len": 4096, "tokens": [1, 2, 3]}', 3),
        (b'{"tokens":[1,2,3],"count":3}', 3),
        (b'{"count": "3"}', None),
        (b'{"max_model_len": 4096}', None),
        (b"<html>", None),
    ],
)
def test_the_count_is_found_in_each_engines_answer(answer: bytes, count: int | None) -> None:
    assert count_in(answer) == count
