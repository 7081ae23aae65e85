"""The verbs of the command line, and how their errors are reported."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import reverie
from reverie.cli import keys
from reverie.cli.chat import chat
from reverie.cli.check import check
from reverie.cli.connection import CallFailed
from reverie.cli.init import init
from reverie.cli.models import models
from reverie.cli.pull import pull
from reverie.cli.requests import requests
from reverie.cli.run import run as run_verb
from reverie.cli.serve import serve
from reverie.cli.status import status
from reverie.cli.top import top
from reverie.cli.usage import usage
from reverie.errors import ConfigurationError, ModelError, StoreFailure

app = typer.Typer(
    name="reverie",
    help="A self-hosted gateway that generates text with language models.",
    epilog="Start with: reverie serve, or reverie chat",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(chat)
app.command("run")(run_verb)
app.command()(pull)
app.command()(models)
app.command()(init)
app.command()(check)
app.command()(status)
app.command()(top)
app.add_typer(keys.app)
app.command()(usage)
app.command()(requests)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reverie {reverie.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
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
    except (ModelError, CallFailed) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except StoreFailure as error:
        typer.echo(f"error: store.url: the store can't be used: {error}", err=True)
        sys.exit(1)
