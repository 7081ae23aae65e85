"""The verbs of the command line, and how their errors are reported."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from reverie.cli import cluster, keys
from reverie.cli.backup import backup
from reverie.cli.bench import bench
from reverie.cli.chat import chat
from reverie.cli.check import check
from reverie.cli.connection import CallFailed
from reverie.cli.init import init
from reverie.cli.migrate import migrate
from reverie.cli.models import models
from reverie.cli.prune import prune
from reverie.cli.pull import pull
from reverie.cli.requests import requests
from reverie.cli.restore import restore
from reverie.cli.run import run as run_verb
from reverie.cli.serve import serve
from reverie.cli.status import status
from reverie.cli.top import top
from reverie.cli.tune import tune
from reverie.cli.usage import usage
from reverie.errors import ClusterError, ConfigurationError, ModelError, StoreFailure, UpkeepError

_EPILOG = """\b
Start with:
  reverie serve                       a server, with a page to chat on
  reverie chat                        a conversation, here
  cat FILE | reverie run "Summarise"  one answer
  reverie models --suggest            better models that fit this machine
  reverie VERB --help                 what a verb can do, with an example
"""

app = typer.Typer(
    name="reverie",
    help="A self-hosted gateway that generates text with language models.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(short_help="Serve text generation, the API and a page to chat on.")(serve)
app.command(short_help="Talk to a model.")(chat)
app.command("run", short_help="Ask one question; text can be piped in.")(run_verb)
app.command(short_help="Fetch a model before it is served.")(pull)
app.command(short_help="List models: those here, and what this machine could run.")(models)
app.command(short_help="Measure how a model runs best here, for serve.")(tune)
app.command(short_help="Write a first reverie.toml, from four questions.")(init)
app.command(short_help="Say what serve would run, or what is wrong.")(check)
app.command(short_help="Say how a server is doing: models, slots, queue.")(status)
app.command(short_help="Watch what runs; sort and cancel requests.")(top)
app.add_typer(keys.app, short_help="Create, list, change and revoke callers' keys.")
app.add_typer(cluster.app, short_help="Run models on many machines.")
app.command(short_help="Say what was used: requests, tokens, money.")(usage)
app.command(short_help="List the last requests: who asked what, how it ended.")(requests)
app.command(short_help="Copy the store to a file, while servers run.")(backup)
app.command(short_help="Fill an empty store from a backup.")(restore)
app.command(short_help="Remove old requests from the store.")(prune)
app.command(short_help="Say what an upgrade does to the store, and do it.")(migrate)
app.command(short_help="Put load on a server, and measure what clients see.")(bench)


def _show_version(wanted: bool) -> None:
    if wanted:
        from reverie import build  # it looks packages up

        told = build.facts()
        typer.echo(f"reverie {told.version}")
        for name, value in told._asdict().items():
            if name != "version" and value is not None:
                typer.echo(f"{name} {value}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version, what it was built from, and what it runs on.",
        ),
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command that the process was started with; exit with 1 and a sentence per mistake."""
    try:
        app()
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(f"error: {problem}", err=True)
        sys.exit(1)
    except (ModelError, ClusterError, CallFailed, UpkeepError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except StoreFailure as error:
        typer.echo(f"error: store.url: the store can't be used: {error}", err=True)
        sys.exit(1)
