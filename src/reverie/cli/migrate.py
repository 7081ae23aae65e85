"""``reverie migrate``: bring the store to this version's schema, or say what that would do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie.cli.accounts import AsJson, Config, print_json, use_store
from reverie.cli.backup import Force, described, write_file
from reverie.settings import load

if TYPE_CHECKING:
    from reverie.gateway.accounts.upkeep import Migration


def migrate(
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done, and write nothing.")
    ] = False,
    backup: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Back the store up before, if anything is to do."),
    ] = None,
    force: Force = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Bring the store to the schema of this version, as `reverie serve` does at its start.

    It is one transaction: a store has its old schema or the new one. There is no way back but to
    restore a backup.

    Example: reverie migrate --plan; reverie migrate --backup before-upgrade.backup
    """
    from reverie.gateway.accounts import upkeep

    with use_store(load(config), create=not plan, unhurried=True, as_it_is=True) as store:
        before, steps = upkeep.revision(store), upkeep.plan(store)
        running = upkeep.running_gateways(store)
        if as_json:
            print_json(_as_json(before, upkeep.HEAD, steps, running))
        else:
            _say(before, upkeep.HEAD, steps, running)
        if plan or before == upkeep.HEAD:
            return
        if backup is not None and before is not None:
            summary = write_file(store, backup, replace=force)
            typer.echo(f"wrote {backup}: {described(summary)}", err=True)
        upkeep.migrate(store)
    typer.echo(f"The store has revision {upkeep.HEAD} now.", err=True)


def _say(before: str | None, head: str, steps: list[Migration], running: int) -> None:
    if before is None:
        typer.echo(f"The store is empty. This version makes it with revision {head}.")
    elif not steps:
        typer.echo(f"Nothing is to be done: the store has revision {head}, that of this version.")
    else:
        typer.echo(f"The store has revision {before}, this version needs {head}:")
    for step in steps:
        typer.echo(f"  {step.revision}  {step.what}")
        typer.echo(f"        {_effect(step)}")
    if steps and running:
        from reverie.gateway.accounts.upkeep import running_words

        now = running_words(running).capitalize()
        typer.echo(f"{now} on the store. While a step runs, requests may wait, or be refused.")


def _effect(step: Migration) -> str:
    """What a step does to rows that there are, and how long that may take."""
    parts = [f"reads {_tables(step.reads)}, which can't be written to meanwhile"] * bool(step.reads)
    parts += [f"rewrites {_tables(step.rewrites)}"] * bool(step.rewrites)
    if not parts:
        return "touches no row; done at once"
    return f"{' and '.join(parts)}; about {math.ceil(step.seconds)} s"


def _tables(sizes: dict[str, int]) -> str:
    return " and ".join(f"{name} ({rows} rows)" for name, rows in sizes.items())


def _as_json(before: str | None, head: str, steps: list[Migration], running: int) -> dict[str, Any]:
    return {
        "from": before,
        "to": head,
        "running_gateways": running,
        "steps": [
            {
                "revision": step.revision,
                "what": step.what,
                "reads": step.reads,
                "rewrites": step.rewrites,
                "seconds": round(step.seconds, 1),
            }
            for step in steps
        ],
    }
