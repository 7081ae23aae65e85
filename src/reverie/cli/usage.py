"""``reverie usage``: what was used, by key, model and day."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reverie.cli.accounts import AsJson, Config, plain_errors, print_json, print_table, store_at

if TYPE_CHECKING:
    from reverie.gateway.accounts.usage_report import Report
    from reverie.store.usage import Use

_OPTIONS = {
    "by": "--by",
    "since": "--since",
    "until": "--until",
    "key": "--key",
    "model": "--model",
}
_HEADS = {
    "requests": "requests",
    "cancelled": "cancelled",
    "failed": "failed",
    "lost": "lost",
    "prompt_tokens": "prompt",
    "cached_tokens": "cached",
    "completion_tokens": "completion",
}


def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="key, model or day; several, as key,day. Default: key."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DAY",
            help="The first day (UTC), as 2026-11-01, or 7d for the last seven. "
            "Default: the first of the month.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="The last day, which is counted too. Default: today."),
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="NAME|ID", help="Of this key alone.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model alone.")] = None,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
) -> None:
    """Say what was used: requests, tokens and money, in whole days (UTC).

    A request counts once it has ended, on the day on which it began. Cancelled, failed and lost
    requests are among the requests, and cached tokens among the prompts'.

    Example: reverie usage --by key,model --since 7d
    """
    from reverie.gateway.accounts import usage_report
    from reverie.store.keys import now_ms

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv", param_hint="'--csv'")
    with plain_errors(_OPTIONS):
        wanted = usage_report.read(by or (), since, until, key, model, now_ms())
        with store_at(config) as store, store.read() as connection:
            found = usage_report.make(connection, wanted)
    if as_json:
        print_json(usage_report.told(found))
    elif as_csv:
        _print_csv(found)
    else:
        _print_table(found)


def _print_table(found: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    from reverie.gateway.accounts.usage_report import cost

    table = Table(title=f"{found.first} to {found.last}", title_justify="left")
    for dimension in found.wanted.by:
        table.add_column(dimension)
    for head in (*_HEADS.values(), "cost"):
        table.add_column(head, justify="right", overflow="fold")

    def add(labels: list[str], use: Use) -> None:
        figures = [str(getattr(use, figure)) for figure in _HEADS]
        # Text: a name is no markup.
        table.add_row(*(Text(cell) for cell in (*labels, *figures, cost(use))))

    for use in found.uses:
        add(found.labels(use), use)
    table.add_section()
    add(["total", *[""] * (len(found.wanted.by) - 1)], found.total)
    print_table(table)


def _print_csv(found: Report) -> None:
    """One line a group; its money in one column for each currency, as exact decimals."""
    from reverie.gateway.accounts.usage_report import told
    from reverie.money import format_amount

    currencies = sorted(found.total.costs)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = told(found)["rows"]
    groups = [
        name for one in found.wanted.by for name in ((one, "name") if one == "key" else (one,))
    ]
    writer.writerow([*groups, *_HEADS, *(f"cost_{currency}" for currency in currencies)])
    for use, row in zip(found.uses, rows, strict=True):
        writer.writerow(
            [
                *(row[name] for name in (*groups, *_HEADS)),
                *(format_amount(use.costs.get(currency, 0), "") for currency in currencies),
            ]
        )
