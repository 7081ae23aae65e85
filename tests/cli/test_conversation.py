"""What a chat's next request is made of."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from reverie.cli.conversation import Conversation, WrongInput


def test_a_request_carries_all_that_was_said_and_set() -> None:
    talk = Conversation("m", "Be brief.")
    talk.change("temperature", "0.2")
    talk.change("max_tokens", "9")
    talk.ask("Hi")
    talk.answered("Hello.")
    assert talk.ask("Again") == {
        "model": "m",
        "temperature": 0.2,
        "max_tokens": 9,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Again"},
        ],
    }


def test_a_question_without_an_answer_is_taken_back() -> None:
    talk = Conversation()
    talk.ask("Hi")
    talk.answered("")
    assert talk.ask("Again") == {"messages": [{"role": "user", "content": "Again"}]}


def test_an_empty_value_takes_a_setting_back() -> None:
    talk = Conversation()
    talk.change("seed", "1")
    talk.change("seed", "")
    assert talk.settings == {}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("colour", "red", "there is no colour; there are temperature,"),
        ("max_tokens", "many", "max_tokens: write a whole number"),
        ("max_tokens", "1.5", "max_tokens: write a whole number"),
        ("temperature", "hot", "temperature: write a number"),
        ("temperature", "nan", "temperature: write a number"),
    ],
)
def test_a_wrong_setting_says_what_to_write(name: str, value: str, said: str) -> None:
    talk = Conversation()
    with pytest.raises(WrongInput, match=said):
        talk.change(name, value)
    assert talk.settings == {}


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpeg"),
        (b"GIF89a", "gif"),
        (b"RIFF\0\0\0\0WEBP", "webp"),
        (b"BM", "bmp"),
    ],
)
def test_an_image_goes_with_the_next_question_alone(
    tmp_path: Path, begin: bytes, kind: str
) -> None:
    file = tmp_path / "a"
    file.write_bytes(begin + b"rest")
    talk = Conversation()
    talk.attach(file)
    [message] = talk.ask("What is it?")["messages"]
    encoded = base64.b64encode(begin + b"rest").decode()
    assert message["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{encoded}"}},
    ]
    talk.answered("A cat.")
    assert talk.ask("Sure?")["messages"][-1]["content"] == "Sure?"


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no image")
    (tmp_path / "large").write_bytes(b"BM" + bytes(8 * 1024 * 1024))
    talk = Conversation()
    for name, said in (("text", "is no PNG"), ("large", "more than 7 MiB"), ("none", "No such")):
        with pytest.raises(WrongInput, match=said):
            talk.attach(tmp_path / name)
    assert talk.images == []


def test_a_conversation_is_saved_as_markdown_and_as_json(tmp_path: Path) -> None:
    talk = Conversation("m", "Be brief.")
    talk.ask("Hi")
    talk.answered("**Hello.**")
    talk.save(tmp_path / "talk.md")
    assert (tmp_path / "talk.md").read_text() == (
        "## System\n\nBe brief.\n\n## You\n\nHi\n\n## m\n\n**Hello.**\n"
    )
    talk.save(tmp_path / "talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["model"] == "m"
    assert [one["role"] for one in saved["messages"]] == ["system", "user", "assistant"]


def test_saving_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(WrongInput, match="is there already"):
        Conversation().save(tmp_path / "mine")
    with pytest.raises(WrongInput, match="can't be written"):
        Conversation().save(tmp_path / "no folder" / "a")
    assert (tmp_path / "mine").read_text() == "precious"
