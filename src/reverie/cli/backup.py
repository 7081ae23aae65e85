"""``reverie backup``: a copy of the store as it is at one moment; and whether one is whole."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TypeAlias

import typer

from reverie.cli.accounts import Config, use_store
from reverie.cli.row_progress import row_progress
from reverie.errors import UnusableBackup, UpkeepError
from reverie.settings import load
from reverie.times import format_moment

if TYPE_CHECKING:
    from reverie.gateway.accounts.store import Store
    from reverie.gateway.accounts.upkeep import Summary

STANDARD = "-"
"""In place of a file: standard output, or standard input."""
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Write over a file.")]
_COUNTED = (("keys", "key", "keys"), ("ledger", "request", "requests"))


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; -: standard output.")],
    check: Annotated[
        bool, typer.Option("--check", help="Read FILE instead, and say whether it is whole.")
    ] = False,
    force: Force = False,
    config: Config = None,
) -> None:
    """Copy the store to a file, as it is at one moment, while servers run.

    It holds keys (as hashes, whose secrets nobody can tell), limits, requests and usage, and can be
    restored to SQLite and to PostgreSQL. No prompt is in it; answers are that are kept for an
    Idempotency-Key, for a day.

    Example: reverie backup /var/backups/reverie-$(date +%F).backup
    """
    if check:
        typer.echo(f"{file} is whole: {described(_checked(file))}")
        return
    settings = load(config)
    with use_store(settings, unhurried=True, as_it_is=True) as store:
        if file == STANDARD:
            _write_to_standard_output(store)
        else:
            summary = write_file(store, Path(file), replace=force)
            typer.echo(f"wrote {file}: {described(summary)}", err=True)


def write_file(store: Store, path: Path, *, replace: bool) -> Summary:
    """Write a backup to a file, which is there as a whole afterwards, or not at all."""
    from reverie.gateway.accounts.upkeep import back_up, count_rows, new_file

    with (
        new_file(path, replace=replace) as target,
        row_progress("backing up", lambda: count_rows(store)) as progress,
    ):
        return back_up(store, target, progress)


def _write_to_standard_output(store: Store) -> None:
    from reverie.gateway.accounts.upkeep import back_up

    if sys.stdout.isatty():
        raise UpkeepError(
            "a backup isn't for a terminal; name a file, or send it elsewhere by > or |"
        )
    try:
        summary = back_up(store, sys.stdout.buffer, lambda _: None)
    except OSError as error:
        raise UpkeepError(f"standard output can't be written: {error.strerror}") from None
    typer.echo(f"wrote {described(summary)}", err=True)


def _checked(file: str) -> Summary:
    from reverie.gateway.accounts.upkeep import verify

    with readable(file) as source:
        return verify(source)


@contextmanager
def readable(file: str) -> Generator[BinaryIO, None, None]:
    """A backup to read, more than once; what is wrong with it is told with its name.

    Raises:
        UpkeepError
    """
    import shutil
    import tempfile

    try:
        with ExitStack() as opened:
            given = sys.stdin.buffer
            if file != STANDARD:
                given = opened.enter_context(Path(file).open("rb"))
            if file == STANDARD or not given.seekable():  # a pipe can't be read twice
                copy = opened.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(given, copy)
                given = copy
            yield given
    except UnusableBackup as error:
        name = "standard input" if file == STANDARD else file
        raise UpkeepError(f"{name}: {error}") from None
    except OSError as error:
        raise UpkeepError(f"{file} can't be read: {error.strerror}") from None


def described(summary: Summary) -> str:
    """What a backup holds, and of when it is."""
    counts = []
    for table, one, several in _COUNTED:
        number = summary.rows.get(table, 0)
        counts.append(f"{number} {one if number == 1 else several}")
    head = summary.head
    return (
        f"{', '.join(counts)}, as of {format_moment(head.created_at)}, revision {head.revision}, "
        f"by Reverie {head.version}"
    )
