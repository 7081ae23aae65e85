"""Tables that fit a terminal, and are plain columns where they go elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

import typer

_GAP = "  "


def print_rows(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    whole: Collection[str] = (),
) -> None:
    """Print a table: on a terminal its cells are broken to fit, and columns without any are left
    out; elsewhere neither is done.

    Args:
        right: the heads of columns of numbers.
        whole: the heads of columns whose cells are copied from the screen, and never broken.
    """
    shown = [["".join(map(_printable, cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_fitted(heads, shown, right, whole)
    else:
        _print_plain(heads, shown, right)


def _printable(char: str) -> str:
    """The character, unless a terminal would obey it, or it would break a line."""
    return char if char.isprintable() else "?"


def _print_plain(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]
) -> None:
    """Columns that two spaces or more part. An empty cell is a dash, so that none gets lost."""
    lines = [heads, *([cell or "-" for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = [
            cell.rjust(width) if head in right else cell.ljust(width)
            for head, cell, width in zip(heads, line, widths, strict=True)
        ]
        typer.echo(_GAP.join(cells).rstrip())


def _print_fitted(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str],
    whole: Collection[str],
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    filled = [column for column in range(len(heads)) if not rows or any(r[column] for r in rows)]
    for head in (heads[column] for column in filled):
        table.add_column(
            head,
            justify="right" if head in right else "left",
            overflow="fold",
            no_wrap=head in whole,
        )
    for row in rows:
        table.add_row(*(Text(row[column]) for column in filled))  # Text: names aren't markup
    Console(highlight=False).print(table)
