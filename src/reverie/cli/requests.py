"""``reverie requests``: the last requests of the ledger."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from reverie.cli.accounts import AsJson, Config, plain_errors, print_json, use_store
from reverie.cli.tables import print_rows
from reverie.settings import load

_OPTIONS = {field: f"--{field}" for field in ("key", "model", "tag", "outcome", "limit")}
_HEADS = ["time (UTC)", "key", "model", "outcome", "prompt", "answer", "cost", "TTFT"]
_RIGHT = ("prompt", "answer", "cost", "TTFT")


def requests(
    key: Annotated[str | None, typer.Option(metavar="NAME|ID", help="Of this key alone.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model alone.")] = None,
    tag: Annotated[str | None, typer.Option(help="Of the keys with this tag alone.")] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="Those that ended so: ok, length, cancelled, failed, lost; or running. "
            "Several, as failed,lost."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="How many, at most 10000.")] = 20,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List the last requests, newest first: who asked what, how it ended, and what it cost.

    What is refused before it costs anything isn't among them. Counts with a ~ are estimates.

    Example: reverie requests --key alice --outcome failed,lost --limit 50
    """
    from reverie.gateway.accounts.request_list import last_requests

    with (
        plain_errors(_OPTIONS),
        use_store(load(config)) as store,
        store.read() as connection,
    ):
        page = last_requests(connection, limit, key=key, model=model, tag=tag, outcome=outcome)
        found = page.requests
    if as_json:
        print_json(found)
    elif found:
        print_rows(_HEADS, [_cells(one) for one in found], right=_RIGHT)
    else:
        typer.echo("There are no such requests.")


def _cells(one: dict[str, Any]) -> list[str]:
    estimated = "~" if one["estimated"] else ""
    ttft = one["ttft_ms"]
    return [
        one["at"].replace("T", " ").removesuffix("Z"),
        one["name"] or one["key"],
        one["model"],
        one["outcome"],
        f"{estimated}{one['prompt_tokens']}",
        f"{estimated}{one['completion_tokens']}",
        one["cost"],
        "" if ttft is None else f"{ttft} ms",
    ]
