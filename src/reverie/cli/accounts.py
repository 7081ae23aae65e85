"""What the commands on accounts share: the configuration's store, and JSON."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from reverie.cli.stores import left_behind, whereabouts
from reverie.settings import Settings

if TYPE_CHECKING:
    from reverie.gateway.accounts.store import Store

Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="REVERIE_CONFIG",
        help="The file that names the store; default: reverie.toml, if it is here. "
        "REVERIE_STORE_URL overrides it.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def use_store(
    settings: Settings, *, create: bool = False, unhurried: bool = False, as_it_is: bool = False
) -> Generator[Store, None, None]:
    """As ``gateway.accounts.store.opened``, and say on standard error which store it is."""
    # Imported here: SQLAlchemy takes half a second, and an option may be wrong already.
    from reverie.gateway.accounts.store import opened

    if sentence := left_behind(settings.store):
        typer.echo(f"warning: {sentence}", err=True)
    with opened(
        settings.store, create=create, unhurried=unhurried, as_it_is=as_it_is, tell=_tell
    ) as store:
        typer.echo(f"store: {whereabouts(settings.store)}", err=True)
        yield store


def _tell(sentence: str) -> None:
    typer.echo(sentence, err=True)


@contextmanager
def plain_errors(options: dict[str, str]) -> Generator[None, None, None]:
    """End with exit status 2 and a sentence that names the option, if the input is wrong.

    Args:
        options: field of the input → the option or argument that sets it.
    """
    from reverie.gateway.accounts.key_service import InvalidInput

    try:
        yield
    except InvalidInput as error:
        raise typer.BadParameter(error.message, param_hint=f"'{options[error.field]}'") from None


def print_json(value: Any) -> None:
    typer.echo(as_json_text(value))


def as_json_text(value: Any) -> str:
    """JSON for people to read."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value)).decode()
