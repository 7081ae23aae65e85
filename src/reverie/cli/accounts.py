"""What the verbs on accounts share: the store of the configuration, JSON, tables."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from reverie.errors import ConfigurationError
from reverie.settings import NO_STORE, Settings, load

if TYPE_CHECKING:
    from rich.table import Table

    from reverie.store.database.engine import Store

Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="REVERIE_CONFIG",
        help="The file that names the store; default: reverie.toml, if it is here. "
        "REVERIE_STORE_URL overrides it.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_WIDE = 250
"""Columns of a table that isn't shown on a terminal, so that nothing in it is broken."""


@contextmanager
def store_of(settings: Settings, *, make: bool) -> Generator[Store, None, None]:
    """The store, brought up to date. No server needs to run, and none needs to stop.

    Args:
        make: whether to make the file of one that isn't there.

    Raises:
        ConfigurationError: there is none, or it can't be used by this version.
        StoreFailure: it can't be reached, or is locked.
    """
    from reverie.store.database.engine import Store, parse_url
    from reverie.store.database.migrate import migrate

    if settings.store.url == NO_STORE:
        raise ConfigurationError(
            ["store.url is none, so there are no accounts: name a store, as sqlite:///reverie.db"]
        )
    url = parse_url(settings.store.url)
    if not make and url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise ConfigurationError(
            [f"store.url: there is no file {url.database}; create a key, or start the server"]
        )
    store = Store(settings.store)
    try:
        migrate(store)
        yield store
    finally:
        store.close()


@contextmanager
def store_at(config: Path | None) -> Generator[Store, None, None]:
    """The store that a configuration file, or the environment, names; see ``store_of``."""
    with store_of(load(config), make=False) as store:
        yield store


@contextmanager
def plain_errors(options: dict[str, str]) -> Generator[None, None, None]:
    """What can't be done ends with exit status 2 and a sentence that names the option.

    Args:
        options: field → the option or argument that it was given by.
    """
    from reverie.gateway.accounts.key_service import OperatorError

    try:
        yield
    except OperatorError as error:
        raise typer.BadParameter(error.message, param_hint=f"'{options[error.field]}'") from None


def print_json(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def print_table(table: Table) -> None:
    """Print a table; where it doesn't go to a terminal, without breaking its lines."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    console.print(table)
