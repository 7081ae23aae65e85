"""The options of ``serve`` and ``check``, and the settings that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from reverie.errors import ConfigurationError
from reverie.settings import ModelSettings, Settings, load

Host: TypeAlias = Annotated[
    str | None, typer.Option(envvar="REVERIE_HOST", help="Address to listen on [127.0.0.1].")
]
Port: TypeAlias = Annotated[
    int | None, typer.Option(envvar="REVERIE_PORT", help="Port to listen on [8000]; 0: any.")
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="REVERIE_CONFIG", help="The configuration; default: reverie.toml, if it exists."
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="REVERIE_MODEL",
        help="Serve this one model instead of the file's: a catalogue name, "
        "hf:OWNER/REPO[/FILE.gguf], or a path.",
    ),
]
AiModels: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="REVERIE_AI_MODELS",
        help="Serve the models of a Livepeer orchestrator's aiModels.json instead of the file's.",
    ),
]
NoAuth: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--no-auth", envvar="REVERIE_NO_AUTH", help="Serve everyone who reaches the port."
    ),
]
Ollama: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--ollama",
        envvar="REVERIE_OLLAMA",
        help="Answer Ollama's API, too, here and on Ollama's own port, 127.0.0.1:11434.",
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        envvar="REVERIE_WORKERS", help="Processes that serve, to use as many cores [1].", min=1
    ),
]


def settings_of(
    host: str | None,
    port: int | None,
    config: Path | None,
    model: str | None,
    no_auth: bool | None,
    ai_models: Path | None = None,
    ollama: bool | None = None,
    workers: int | None = None,
    *,
    remark: Callable[[str], None] = lambda _: None,
    is_reload: bool = False,
) -> Settings:
    """Read the configuration that these options make. None: the option isn't given.

    Args:
        remark: called with a sentence for each part of ``ai_models`` that has no effect.
        is_reload: as in ``files.read_whole``.

    Raises:
        ConfigurationError: with every mistake that was found.
        ModelError: ``model`` is not a model reference.
    """
    given = {
        "host": host,
        "port": port,
        "no_auth": no_auth,
        "ollama": ollama or None,
        "workers": workers,
    }
    flags = {"server": {key: value for key, value in given.items() if value is not None}}
    if ai_models is None:
        return load(config, flags, only_model=_only_model(model), is_reload=is_reload)
    if model is not None:
        raise ConfigurationError(["command line: --model and --ai-models exclude each other"])
    from reverie.ai_models import read

    found = read(ai_models, is_reload=is_reload)
    for sentence in found.remarks:
        remark(sentence)
    return load(config, flags, models=found.models, is_reload=is_reload)


def _only_model(reference: str | None) -> ModelSettings | None:
    if reference is None:
        return None
    from reverie.models.reference import aliases_of, name_of

    return ModelSettings(
        name=name_of(reference), aliases=aliases_of(reference), source=reference, default=True
    )
