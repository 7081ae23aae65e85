"""An answer as it appears: Markdown once and whole on a terminal, the bare text elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from reverie.cli import rendering
from reverie.cli.connection import Piece
from reverie.cli.rendering import MarkdownOutput, PlainOutput, output
from tests.cli.terminal import screen

ANSWER = """\
# A title

A **bold** word.

- one
- two

| a | b |
| - | - |
| 1 | 2 |

```python
print("x")
```

The end.
"""


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece is drawn."""
    monkeypatch.setattr(rendering, "_REDRAW_INTERVAL", -1.0)


def drawn(*pieces: str, reasoning: tuple[str, ...] = ()) -> tuple[list[str], str]:
    """The screen after these pieces, and all that was written to it."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, height=24, highlight=False)
    with MarkdownOutput(console) as shown:
        for piece in reasoning:
            shown.add_reasoning(piece)
        for piece in pieces:
            shown.add(piece)
    written = file.getvalue()
    return [line for line in screen(written) if line], written


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_markdown_is_shown_once_and_whole_however_it_is_cut(size: int) -> None:
    pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
    lines, _ = drawn(*pieces)
    text = "\n".join(lines)
    for once in ("A title", "A bold word.", "one", "two", 'print("x")', "The end."):
        assert text.count(once) == 1, text
    assert "**" not in text
    assert "```" not in text
    positions = [text.index(part) for part in ("title", "bold", "one", "two", "print", "end")]
    assert positions == sorted(positions)


def test_a_piece_is_seen_before_its_block_ends() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, height=24)
    with MarkdownOutput(console) as shown:
        shown.add("Only the begin")
        assert "Only the begin" in "\n".join(screen(file.getvalue()))


def test_a_block_larger_than_the_window_is_whole_at_its_end() -> None:
    pieces = [f"- item {number}.\n" for number in range(60)]
    lines, _ = drawn(*pieces)
    assert [line.split()[-1] for line in lines] == [f"{number}." for number in range(60)]


def test_a_models_control_characters_reach_no_terminal() -> None:
    _, written = drawn("a \x1b]0;evil\x07b\n\n", "\x1b[2Jc")
    assert "\x1b]0" not in written
    assert "\x1b[2J" not in written


def test_links_show_where_they_lead() -> None:
    lines, written = drawn("[here](https://example.org/x)")
    assert "https://example.org/x" in " ".join(lines)
    assert "\x1b]8" not in written


def test_reasoning_is_seen_while_it_lasts_and_leaves_one_line() -> None:
    lines, written = drawn("Yes.", reasoning=("First I ", "think a lot."))
    assert "think a lot." in written
    assert lines == ["(thought for 5 words)", "Yes."]


def test_an_answer_that_is_broken_off_stays() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, height=24)
    with pytest.raises(KeyboardInterrupt):
        with MarkdownOutput(console) as shown:
            shown.add("Half an ans")
            raise KeyboardInterrupt
    assert "Half an ans" in screen(file.getvalue())


def test_an_answer_that_begins_anew_stands_below_what_had_come(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pieces = [Piece("**Half**"), Piece(begins_anew=True), Piece("**Whole**")]
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, height=24)
    for shown in (MarkdownOutput(console), PlainOutput()):
        with shown:
            for piece in pieces:
                shown.add_piece(piece)
    assert [line for line in screen(file.getvalue()) if line] == ["Half", "Whole"]
    assert capsys.readouterr().out == "**Half**\n\n**Whole**\n"


def test_plain_text_is_the_answer_and_a_lines_end(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainOutput() as shown:
        shown.add_piece(Piece(reasoning="Hm."))
        shown.add_piece(Piece("**a**"))
        assert capsys.readouterr().out == "**a**"  # at once
        shown.add("\x1b")
    assert capsys.readouterr().out == "\x1b\n"
    with PlainOutput(controls=False) as shown:
        shown.add("a\x1b[2J\n")
    assert capsys.readouterr().out == "a[2J\n"
    with PlainOutput():
        pass
    assert capsys.readouterr().out == ""


def test_only_a_terminal_that_can_draw_gets_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(output(), PlainOutput)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(output(), PlainOutput)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(output(), MarkdownOutput)
