"""What ``serve`` and ``check`` share: the options of the server, and the settings they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from reverie.settings import ModelSettings, Settings, load

Host: TypeAlias = Annotated[
    str | None, typer.Option(envvar="REVERIE_HOST", help="Address to listen on [127.0.0.1].")
]
Port: TypeAlias = Annotated[
    int | None, typer.Option(envvar="REVERIE_PORT", help="Port to listen on [8000]; 0: any.")
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(envvar="REVERIE_CONFIG", help="The file; default: reverie.toml, if it is here."),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="REVERIE_MODEL",
        help="Serve this one model instead of the file's: a catalogue name, "
        "hf:OWNER/REPO[/FILE.gguf], or a path.",
    ),
]
NoAuth: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--no-auth", envvar="REVERIE_NO_AUTH", help="Serve everyone who reaches the port."
    ),
]


def settings_of(
    host: str | None,
    port: int | None,
    config: Path | None,
    model: str | None,
    no_auth: bool | None,
) -> Settings:
    """The configuration that these options make; None is an option that isn't given.

    Raises:
        ConfigurationError: with every mistake that was found.
        ModelError: ``model`` is no reference.
    """
    given = {"host": host, "port": port, "no_auth": no_auth}
    flags = {"server": {key: value for key, value in given.items() if value is not None}}
    return load(config, flags, only_model=_only_model(model))


def _only_model(reference: str | None) -> ModelSettings | None:
    if reference is None:
        return None
    from reverie.models.reference import aliases_of, name_of

    return ModelSettings(
        name=name_of(reference), aliases=aliases_of(reference), source=reference, default=True
    )
