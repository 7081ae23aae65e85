"""``reverie tune``: measure how a model runs best on this machine, and keep it for ``serve``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie.cli.accounts import AsJson, print_json
from reverie.cli.options import Config, settings_of
from reverie.cli.tables import print_rows
from reverie.errors import BackendError, ModelError

if TYPE_CHECKING:
    from reverie.backends.tuning import Result
    from reverie.settings import ModelSettings

_HEADS = ("", "threads", "batch", "keys", "prompt", "1 answer", "together", "gap")


def tune(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A model of the configuration, or a catalogue name, hf:OWNER/REPO[/FILE.gguf], or "
            "a path; default: the default model.",
        ),
    ] = None,
    config: Config = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", help="Forget what was measured: for MODEL, or for all models if none is."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure how a model runs best on this machine, and keep it for `serve`.

    Takes about a minute, on a machine that does nothing else meanwhile. `serve` uses what was
    measured for `threads` and `batch` where the configuration leaves them at 0, until the model
    file, the machine or the engine is another.
    """
    if forget and model is None:
        _forget(None)
        return
    settings = _model_settings(model, config)
    if forget:
        _forget(settings)
        return
    file = _file(settings)
    from reverie.backends.tuning import PATIENCE
    from reverie.backends.tuning import tune as measure
    from reverie.runner.process import find_engine
    from reverie.runner.tuned import conditions_of, keep

    try:
        result = asyncio.run(measure(file, settings, _say))
    except BackendError as error:
        raise ModelError(f"The engine failed while it was measured: {error.reason}.") from None
    except TimeoutError:
        raise ModelError(
            f"{settings.name} is too slow here to be measured: it took more than {PATIENCE:g} s "
            "for a short answer. Choose a smaller model: reverie models --suggest"
        ) from None
    try:
        kept = keep(conditions_of(file, find_engine(settings.engine)), result.tuned)
    except OSError as error:
        raise ModelError(
            f"The result can't be kept: {error.strerror}: {error.filename}. "
            "Set XDG_STATE_HOME to a folder that can be written."
        ) from None
    if as_json:
        print_json(_described(settings.name, result))
        return
    _print(result)
    typer.echo(f"\nKept in {kept}; reverie serve uses it. Forget it: reverie tune --forget")


def _say(step: str) -> None:
    typer.echo(f"measuring {step} …", err=True)


def _model_settings(model: str | None, config: Path | None) -> ModelSettings:
    """The settings that ``serve`` would run a model with.

    Raises:
        ModelError: it isn't one that runs here and generates.
    """
    configured = settings_of(None, None, config, None, None).models
    if model is None:
        found = next((one for one in configured if one.default), configured[0])
    else:
        named = (one for one in configured if model in (one.name, *one.aliases, one.source))
        found = next(named, None) or settings_of(None, None, config, model, None).models[0]
    if found.source is None:
        raise ModelError(f"{found.name} is reached elsewhere: only models that run here are tuned.")
    if found.task != "generate":
        raise ModelError(f"{found.name} generates nothing: there is nothing to tune.")
    return found


def _file(settings: ModelSettings) -> Path:
    from reverie.models.store import fetch, find

    assert settings.source is not None
    return find(settings.source) or fetch(settings.source)


def _forget(settings: ModelSettings | None) -> None:
    from reverie.models.store import find
    from reverie.runner.tuned import forget

    file = None
    if settings is not None:
        assert settings.source is not None
        file = find(settings.source)
    number = 0 if settings is not None and file is None else forget(file)
    typer.echo(f"Forgot {number} result{'' if number == 1 else 's'}.")


def _print(result: Result) -> None:
    rows = [
        (
            "chosen" if speed == result.chosen else "",
            str(speed.threads),
            str(speed.batch),
            speed.keys,
            f"{speed.prompt:.0f}/s",
            f"{speed.one:.0f}/s",
            f"{speed.all:.0f}/s",
            f"{speed.gap:.2f} s",
        )
        for speed in result.speeds
    ]
    typer.echo(
        "Tokens a second: of a long prompt, of one answer, of answers in all slots together; and "
        "the\nlongest wait of a running answer for its next token while such a prompt is read.\n"
    )
    print_rows(_HEADS, rows, right=(*_HEADS[1:3], *_HEADS[4:]))
    for reason in result.reasons:
        typer.echo(f"\n{reason}", nl=False)
    typer.echo()


def _described(name: str, result: Result) -> dict[str, Any]:
    import msgspec

    described: dict[str, Any] = msgspec.to_builtins(result)
    return {"model": name, **described}
