"""Tables fit a terminal, and are plain elsewhere."""

from __future__ import annotations

import sys

import pytest

from reverie.cli.tables import print_rows
from tests.cli.terminal import screen

HEADS = ["name", "count"]
ROWS = [["a long name " * 10, "1"], ["", "1000"]]


def test_in_a_pipe_there_are_no_boxes_and_no_line_is_broken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows(HEADS, ROWS, right=("count",))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "count"]
    assert first.startswith("a long name " * 10)
    assert second.split() == ["-", "1000"]
    assert head.isascii()


def test_a_terminal_of_80_columns_holds_every_line_and_every_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_rows(HEADS, [["[bold]x[/bold]", "1"], *ROWS], right=("count",))
    lines = screen(capsys.readouterr().out)
    assert max(map(len, lines)) <= 80
    out = "\n".join(lines)
    assert out.count("long") == 10
    assert "[bold]x[/bold]" in out


def test_what_a_terminal_would_obey_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(HEADS, [["a\x1b[2J\nb", "1"]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["a?[2J?b", "1"]
