"""``reverie prune``: remove what is old from the store."""

from __future__ import annotations

from typing import Annotated

import typer

from reverie.cli.accounts import AsJson, Config, print_json, use_store
from reverie.cli.row_progress import row_progress
from reverie.settings import LEAST_KEPT_DAYS, days_of, load


def prune(
    requests: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Requests older than this, as 400d, at least 2d. Default: store.keep_requests.",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Keys that were revoked or expired longer ago than this and that no usage names, "
            "as 90d. Default: none.",
        ),
    ] = None,
    vacuum: Annotated[
        bool,
        typer.Option(
            "--vacuum", help="Give the space back to the disk; no server may run meanwhile."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Remove old requests from the ledger, and old keys, in small steps, while servers run.

    `reverie usage` says the same before and after, and limits and budgets don't change: they are
    kept apart from the requests. What goes is gone from `reverie requests`.

    Example: reverie prune --requests 400d --dry-run
    """
    from reverie.gateway.accounts.upkeep import (
        Ages,
        count_old,
        give_space_back,
        remove_old,
        require_stopped,
    )

    settings = load(config)
    kept = settings.store.kept_days
    if requests is not None:
        kept = _days(requests, "--requests", LEAST_KEPT_DAYS)
    ages = Ages(kept, None if keys is None else _days(keys, "--keys", 1))
    freed = 0
    with use_store(settings, unhurried=True) as store:
        if dry_run:
            found = count_old(store, ages)
        else:
            if vacuum:  # an option that can't be followed is told before anything is removed
                require_stopped(store)
            with row_progress("removing", lambda: count_old(store, ages).requests) as progress:
                found = remove_old(store, ages, progress)
            if vacuum:
                freed = give_space_back(store)
    if as_json:
        print_json(
            {"removed": not dry_run, "requests": found.requests, "keys": found.keys, "freed": freed}
        )
        return
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {found.requests} requests and {found.keys} keys")
    if kept is None:
        typer.echo("requests are kept for ever: give --requests, or set store.keep_requests")
    if vacuum and not dry_run:
        typer.echo(f"gave {freed / 1e6:.1f} MB back to the disk")


def _days(text: str, option: str, least: int) -> int:
    days = days_of(text.strip())
    if days < least:
        raise typer.BadParameter(
            f"write a number of days such as 400d, at least {least}d", param_hint=f"'{option}'"
        )
    return days
