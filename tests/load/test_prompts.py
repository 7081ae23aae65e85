"""Prompts follow from the seed, or from a file whose mistakes are named with their line."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from reverie.load.prompts import PromptFileError, Question, bodies, from_file, synthetic


def texts(seed: int, count: int = 20) -> list[str]:
    return [question.messages[0]["content"] for question in islice(synthetic(50, seed), count)]


def test_the_same_seed_gives_the_same_prompts_and_no_two_are_alike() -> None:
    assert texts(1) == texts(1)
    assert len(set(texts(1) + texts(2))) == 40
    assert {len(text.split()) for text in texts(1)} == {50}


def test_a_file_has_strings_prompts_and_conversations_and_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    lines = ["One", {"prompt": "Two", "max_tokens": 5}, {"text": "Three"}, {"messages": talk}]
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    found = list(islice(from_file(file), 5))
    assert [question.messages[-1]["content"] for question in found] == [
        "One", "Two", "Three", "Hi", "One",
    ]  # fmt: skip
    assert [question.max_tokens for question in found] == [None, 5, None, None, None]
    assert found[3].messages == talk


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"a"\n{', "line 2 of .* isn't JSON"),
        ("3", "line 1 of .* is neither a string nor an object"),
        ('{"prompt": 3}', "line 1 of"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens that is no count"),
        ("\n", "has no prompt"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    with pytest.raises(PromptFileError, match=said):
        from_file(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="No such file"):
        from_file(tmp_path / "none")


def test_a_body_asks_for_its_usage_and_a_question_has_its_own_length() -> None:
    asked = [Question([], None), Question([], 3)]
    fields = {"model": "m", "max_tokens": 9}
    streamed = [json.loads(body) for body in bodies(asked, fields, stream=True)]
    assert [body["max_tokens"] for body in streamed] == [9, 3]
    assert streamed[0] == {
        "model": "m", "messages": [], "max_tokens": 9, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert "stream" not in json.loads(next(bodies(asked, fields, stream=False)))
