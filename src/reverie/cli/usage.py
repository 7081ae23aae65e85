"""``reverie usage``: what was used, by key, model, day and tag."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from reverie.cli.accounts import AsJson, Config, plain_errors, print_json, use_store
from reverie.cli.tables import print_rows
from reverie.settings import load
from reverie.times import now_ms

if TYPE_CHECKING:
    from reverie.gateway.accounts.usage_report import UsageReport

_OPTIONS = {field: f"--{field}" for field in ("by", "since", "until", "key", "model", "tag")}


def usage(
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT", help="key, model, day or tag; several, as key,day. Default: key."
        ),
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
    tag: Annotated[str | None, typer.Option(help="Of the keys with this tag alone.")] = None,
    config: Config = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
) -> None:
    """Say what was used: requests, tokens and money, in whole days (UTC).

    A request counts once it has ended, on the day on which it began. Cancelled, failed and lost
    requests are among the requests, and cached tokens among the prompts'.

    By tag, a key counts in the row of each tag that it has now, and in the row - if it has none.
    The total counts each request once, so that it isn't the sum of these rows.

    Example: reverie usage --by key,model --since 7d
    """
    from reverie.gateway.accounts import usage_report

    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv", param_hint="'--csv'")
    with plain_errors(_OPTIONS):
        query = usage_report.parse_query(by or (), since, until, key, model, tag, now_ms())
        with use_store(load(config)) as store, store.read() as connection:
            report = usage_report.make(connection, query)
    if as_json:
        print_json(report.to_json())
    elif as_csv:
        _print_csv(report)
    else:
        _print_table(report)


def _print_table(report: UsageReport) -> None:
    from reverie.gateway.accounts.usage_report import COUNTS, UsageGroup, format_costs

    def cells(labels: list[str], group: UsageGroup) -> list[str]:
        counts = [str(getattr(group, name)) for name in COUNTS]
        return [*labels, *counts, format_costs(group)]

    figures = [*(name.removesuffix("_tokens") for name in COUNTS), "cost"]
    rows = [cells(report.labels(group), group) for group in report.groups]
    rows.append(cells(["total", *[""] * (len(report.query.by) - 1)], report.total))
    typer.echo(f"{report.first} to {report.last}\n")
    print_rows([*report.query.by, *figures], rows, right=figures)


def _print_csv(report: UsageReport) -> None:
    """Print one line a group; money in one column for each currency, as exact decimals."""
    from reverie.gateway.accounts.usage_report import COUNTS
    from reverie.money import format_amount

    currencies = sorted(report.total.costs)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    dimensions = [
        name for one in report.query.by for name in ((one, "name") if one == "key" else (one,))
    ]
    writer.writerow([*dimensions, *COUNTS, *(f"cost_{currency}" for currency in currencies)])
    for group, row in zip(report.groups, report.to_json()["rows"], strict=True):
        writer.writerow(
            [
                *(row[name] for name in (*dimensions, *COUNTS)),
                *(format_amount(group.costs.get(currency, 0), "") for currency in currencies),
            ]
        )
