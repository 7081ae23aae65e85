"""Lines become messages, and are remembered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reverie.cli import line_input
from reverie.cli.line_input import LineInput


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The messages that these lines make."""
    monkeypatch.setattr(line_input, "_readline", lambda: None)

    def messages(*lines: str) -> list[str]:
        waiting = list(lines)
        monkeypatch.setattr("builtins.input", lambda _: waiting.pop(0))
        reader = LineInput(tmp_path / "state" / "history")
        found = []
        while waiting:
            found.append(reader.message().text)
        return found

    return messages


def test_a_line_is_a_message(typed: Callable[..., list[str]]) -> None:
    assert typed(" Hi ", "there", "") == ["Hi", "there", ""]


def test_a_backslash_at_the_end_goes_on_with_the_next_line(
    typed: Callable[..., list[str]],
) -> None:
    assert typed("one\\", "two\\", "three", "four") == ["one\ntwo\nthree", "four"]


def test_between_quotes_lines_are_one_message(typed: Callable[..., list[str]]) -> None:
    assert typed('"""', "def f():", "    pass\\", "", '"""', "next") == [
        "def f():\n    pass\\",
        "next",
    ]
    assert typed('"""a', 'b"""') == ["a\nb"]
    assert typed('"""a"""') == ["a"]


@pytest.mark.parametrize(
    ("lines", "is_command"),
    [(["/help"], True), (["help"], False), (['"""/help"""'], False), (["/help\\", "me"], False)],
)
def test_only_a_line_by_itself_is_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], is_command: bool
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: lines.pop(0))
    assert LineInput(tmp_path / "history").message().is_command == is_command


def test_the_history_is_private_and_leaves_out_what_begins_with_a_space(
    typed: Callable[..., list[str]], tmp_path: Path
) -> None:
    typed("one", " secret", "two")
    typed("three")
    file = tmp_path / "state" / "history"
    assert file.read_text() == "one\ntwo\nthree\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_history_that_has_grown_is_cut(
    typed: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_input, "_HISTORY_LINES", 2)
    typed("1", "2", "3", "4", "5")
    monkeypatch.setattr(
        line_input,
        "_readline",
        lambda: __import__("types").SimpleNamespace(
            set_auto_history=lambda _: None, add_history=remembered.append
        ),
    )
    remembered: list[str] = []
    LineInput(tmp_path / "state" / "history")
    assert remembered == ["4", "5"]
    assert (tmp_path / "state" / "history").read_text() == "4\n5\n"


def test_without_a_place_for_the_history_a_chat_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_input, "_readline", lambda: None)
    monkeypatch.setattr("builtins.input", lambda _: "Hi")
    (tmp_path / "file").write_text("")
    assert LineInput(tmp_path / "file" / "history").message().text == "Hi"
