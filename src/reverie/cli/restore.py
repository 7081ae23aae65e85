"""``reverie restore``: a backup → a store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from reverie.cli.accounts import Config, use_store
from reverie.cli.backup import STANDARD, described, readable
from reverie.cli.row_progress import row_progress
from reverie.cli.stores import whereabouts
from reverie.errors import UpkeepError
from reverie.settings import Settings, load


def restore(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="What `reverie backup` wrote; -: standard input."),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Lose what is in the store, if it isn't empty.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --replace: don't ask.")] = False,
    config: Config = None,
) -> None:
    """Fill an empty store from a backup: SQLite or PostgreSQL, whichever it was made from.

    All of the file is checked first. The store is left as it was, or as the backup was. No server
    may run on it. What happened after the backup isn't in the store any more: keys that were made
    or revoked since, usage, and what budgets have spent.

    Example: REVERIE_STORE_URL=postgresql://reverie@db/reverie reverie restore FILE
    """
    settings = load(config)
    if replace and not yes:
        _ask(settings, file)
    from reverie.gateway.accounts.upkeep import restore as into

    with (
        readable(file) as source,
        use_store(settings, create=True, unhurried=True, as_it_is=True) as store,
        row_progress("restoring") as progress,
    ):
        summary = into(store, source, progress, replace=replace)
    typer.echo(f"restored {described(summary)}", err=True)


def _ask(settings: Settings, file: str) -> None:
    """Ask whether what is in the store may be lost.

    Raises:
        UpkeepError: there is nobody to ask, or the answer is no.
    """
    if file == STANDARD or not sys.stdin.isatty():
        raise UpkeepError("nobody can be asked whether to replace the store; add --yes to do it")
    if not typer.confirm(
        f"All that is in {whereabouts(settings.store)} will be lost. Go on?", err=True
    ):
        raise UpkeepError("nothing was changed")
