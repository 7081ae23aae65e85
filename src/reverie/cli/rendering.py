"""An answer on its way to standard output: as it comes, rendered as Markdown on a terminal.

Markdown is rendered block by block. The last block, which may still change, is drawn anew with
each piece, as far as it fits the window; once another one begins, it is printed for good. So the
work for a piece doesn't grow with the answer, and the window's history holds everything once.
"""

from __future__ import annotations

import io
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from reverie.cli.connection import Piece, without_controls

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.markdown import Markdown

_REDRAW_INTERVAL = 0.05
"""Seconds between two drawings: an eye sees no more, and a fast model sends more."""
_REASONING_LINES = 5
_MARGIN = 2
"""Lines of the window that a block isn't drawn on, so that it never scrolls while it changes."""


class Output(Protocol):
    """Where an answer goes, piece by piece. A context manager, which ends the answer."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def add_piece(self, piece: Piece) -> None:
        """Show more of the answer, or of what the model thinks before it answers."""


def replace_what_has_no_code() -> None:
    """Show ``?`` for characters that standard output's encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def output() -> Output:
    """Markdown on a terminal that can draw, and plain text everywhere else."""
    replace_what_has_no_code()
    if not sys.stdout.isatty():
        return PlainOutput()
    from rich.console import Console

    console = Console(highlight=False)
    return MarkdownOutput(console) if _can_draw(console) else PlainOutput(controls=False)


def _can_draw(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


class PlainOutput:
    """The text as it is, and a line's end after it. Reasoning is left out.

    Args:
        controls: False leaves control characters out, for a terminal.
    """

    def __init__(self, *, controls: bool = True) -> None:
        self._controls = controls
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._last not in ("", "\n") and not isinstance(error, BrokenPipeError):
            self.add("\n")

    def add_piece(self, piece: Piece) -> None:
        if piece.begins_anew and self._last:
            self.add("\n\n")
        self.add(piece.text)

    def add(self, text: str) -> None:
        shown = text if self._controls else without_controls(text)
        if shown:
            self._last = shown[-1]
            sys.stdout.write(shown)
            sys.stdout.flush()


class MarkdownOutput:
    """Rendered by rich, block by block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._open = ""  # the text of the last block
        self._reasoning = ""
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()  # which takes away what is drawn of the last block
        self._end_reasoning()
        self._print(self._open)
        self._open = ""

    def add_piece(self, piece: Piece) -> None:
        if piece.begins_anew:
            self._print(self._open)
            self._open = self._reasoning = ""
        if piece.reasoning:
            self.add_reasoning(piece.reasoning)
        if piece.text:
            self.add(piece.text)

    def add(self, text: str) -> None:
        self._end_reasoning()
        self._open += without_controls(text)
        self._draw()

    def add_reasoning(self, text: str) -> None:
        self._reasoning += without_controls(text)
        self._draw()

    def _print_closed_blocks(self) -> None:
        """Print all blocks but the last for good."""
        tokens = _markdown(self._open).parsed
        begins = [token.map[0] for token in tokens if token.level == 0 and token.map]
        if len(begins) > 1:
            lines = self._open.split("\n")  # as the parser counts them
            self._print("\n".join(lines[: begins[-1]]))
            self._open = "\n".join(lines[begins[-1] :])

    def _end_reasoning(self) -> None:
        """Leave one line of the reasoning, which nobody reads twice."""
        if words := len(self._reasoning.split()):
            self._console.print(f"(thought for {words} words)", style="dim")
        self._reasoning = ""

    def _print(self, text: str) -> None:
        if text.strip():
            self._console.print(_markdown(text))
            self._console.print()

    def _draw(self) -> None:
        now = time.monotonic()
        if self._live is None or now - self._drawn_at < _REDRAW_INTERVAL:
            return
        self._drawn_at = now
        if not self._reasoning:
            self._print_closed_blocks()
        self._live.update(self._unfinished(), refresh=True)

    def _unfinished(self) -> RenderableType:
        from rich.text import Text

        if self._reasoning:
            return self._last_lines(Text(self._reasoning, style="dim"), _REASONING_LINES)
        most = max(1, self._console.height - _MARGIN)
        return self._last_lines(_markdown(self._open), most)

    def _last_lines(self, renderable: RenderableType, most: int) -> RenderableType:
        from rich.segment import Segment, Segments

        lines = self._console.render_lines(renderable, pad=False)[-most:]
        segments: list[Segment] = []
        for index, line in enumerate(lines):
            segments += [Segment.line(), *line] if index else line
        return Segments(segments)


def _markdown(text: str) -> Markdown:
    """Markdown with its links written out, since not every terminal can follow a hidden one."""
    from rich.markdown import Markdown

    return Markdown(text, hyperlinks=False)
