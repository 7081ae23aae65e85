"""``reverie check``: read the configuration and say what would run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reverie.errors import ConfigurationError, ModelError
from reverie.settings import ModelSettings, load


def check(
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="REVERIE_CONFIG", help="The file; default: reverie.toml, if it is here."
        ),
    ] = None,
) -> None:
    """Read the configuration, say what would run, and exit 1 with each mistake in it."""
    from reverie.app import authenticator

    settings = load(config)
    keys = authenticator(settings)
    address = f"{settings.server.host} port {settings.server.port}"
    typer.echo(f"Would listen on {address}, for {_callers(keys.open)}.")
    problems = []
    for model in settings.models:
        try:
            typer.echo(f"Model {model.name}: {_describe(model)}")
        except ModelError as error:
            problems.append(f"models: {model.name}: {error}")
    if problems:
        raise ConfigurationError(problems)


def _callers(keyless: bool) -> str:
    return "callers without a key" if keyless else "callers with a key"


def _describe(model: ModelSettings) -> str:
    """Where a model runs, and whether it is here."""
    if model.source is None:
        return "reached at " + ", ".join(backend.url for backend in model.backends)
    from reverie.models.store import find

    found = find(model.source)
    state = "on disk" if found else f"will be fetched first (reverie pull {model.source})"
    return f"run here by {model.engine}, {model.slots} slots, {state}"
