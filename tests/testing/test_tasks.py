"""What the scripted engine gives besides answers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from reverie.testing import Script
from reverie.testing.render import Refusal
from reverie.testing.tasks import SIZE, is_task, render, vector


def answer(path: str, body: Any, **script: Any) -> Any:
    return json.loads(render(Script(**script), path, body, "m").whole)


def test_a_vector_follows_from_the_text_and_is_a_unit() -> None:
    assert vector(b"ab") == vector(b"ba") != vector(b"ac")
    assert len(vector(b"ab")) == SIZE
    assert math.hypot(*vector(b"any text")) == pytest.approx(1)


def test_each_route_answers_as_engines_do() -> None:
    vectors = answer("/v1/embeddings", {"input": ["ab", "c"]})
    assert [one["index"] for one in vectors["data"]] == [0, 1]
    assert vectors["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    ranked = answer("/v1/rerank", {"query": "a b", "documents": ["c", "b"]})
    assert [one["index"] for one in ranked["results"]] == [1, 0]
    assert answer("/tokenize", {"content": "ab"})["tokens"] == [97, 98]
    assert answer("/detokenize", {"tokens": [97, 98]}) == {"content": "ab"}


def test_scripts_decide_of_usage_and_failures() -> None:
    assert "usage" not in answer("/v1/embeddings", {"input": "a"}, usage=False)
    assert "error" in answer("/v1/embeddings", {"input": "a"}, status=503)


@pytest.mark.parametrize("body", [None, [], {}, {"input": ""}, {"input": []}, {"input": [""]}])
def test_what_is_no_request_is_refused(body: Any) -> None:
    with pytest.raises(Refusal):
        render(Script(), "/v1/embeddings", body, "m")


def test_a_count_of_messages_is_not_a_text_s() -> None:
    assert is_task("/tokenize", b'{"prompt":"a"}')
    assert not is_task("/tokenize", b'{"messages":[]}')
    assert not is_task("/v1/chat/completions", b"{}")
