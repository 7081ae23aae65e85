"""How far a command has come with many rows: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def row_progress(
    what: str, total: Callable[[], int | None] = lambda: None
) -> Generator[Callable[[int], None], None, None]:
    """Yield what is called with each number of rows that were done.

    Args:
        total: counts all of them, which takes a while; asked on a terminal only.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(what, total=total())
        yield lambda rows: bar.update(task, advance=rows)
