"""``reverie keys``: who may call, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie.cli.accounts import (
    AsJson,
    Config,
    plain_errors,
    print_json,
    print_table,
    store_at,
    store_of,
)
from reverie.settings import Settings, load

if TYPE_CHECKING:
    from reverie.store.database.engine import Store
    from reverie.store.keys import Key, RateLimits

app = typer.Typer(
    name="keys",
    help="Make, list and end the keys that callers need.",
    epilog="Example: reverie keys create --name alice --rpm 60 --budget 10USD/month --expires 90d",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Which = Annotated[str, typer.Argument(metavar="NAME|ID", help="The key's name, or its id.")]

_OPTIONS = {
    "name": "--name",
    "models": "--models",
    "rpm": "--rpm",
    "tpm": "--tpm",
    "concurrency": "--concurrency",
    "budget": "--budget",
    "expires_at": "--expires",
    "weight": "--weight",
    "model_limits": "--model-limit",
    "key": "NAME|ID",
}
_PAGE = 500


@app.command()
def create(
    name: Annotated[
        str, typer.Option(help="What lists and log lines call it; no two keys in use share it.")
    ],
    models: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="The models that it may use; default: all."),
    ] = None,
    rpm: Annotated[int | None, typer.Option(metavar="N", help="Requests per minute.")] = None,
    tpm: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens per minute, prompts and answers together."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Requests at once.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT/PERIOD", help="What it may spend: 10USD/month, 0.50EUR/day."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="When it ends: 30d, 12h, or 2027-01-31 (0:00 UTC)."),
    ] = None,
    weight: Annotated[
        int, typer.Option(metavar="N", help="Its share of a full server, beside other keys'.")
    ] = 1,
    model_limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL:LIMITS",
            help="Limits on one model, as big:rpm=10,tpm=1000,concurrency=2; repeatable.",
        ),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show its secret, once.

    From then on callers need a key, on this machine too. A limit that isn't given isn't there.

    Example: reverie keys create --name alice --models smollm2-135m --rpm 60 --tpm 20000
    --budget 10USD/month --expires 90d
    """
    from reverie.gateway.accounts import key_service
    from reverie.store.keys import now_ms

    settings = load(config)
    with plain_errors(_OPTIONS):
        order = key_service.KeyOrder(
            name=name,
            models=None if models is None else tuple(_listed(models)),
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            budget=budget,
            expires_at=expires,
            weight=weight,
            model_limits=_model_limits(model_limit or []),
        )
        now = now_ms()
        key_service.key_of(order, now)  # before the store is touched: a slip shouldn't make one
        with store_of(settings, make=True) as store, store.write() as connection:
            key, secret = key_service.create(connection, order, now)
            [told] = key_service.describe(connection, [key], now)
    for unknown in _unknown_models(key, settings):
        typer.echo(f"note: no model here is called {unknown}", err=True)
    _show_secret(told, secret, "made", as_json)


@app.command("list")
def list_keys(config: Config = None, as_json: AsJson = False) -> None:
    """List the keys, those in use first.

    Example: reverie keys list
    """
    with store_at(config) as store:
        told = _all(store)
    told.sort(key=lambda one: (one["status"] != "active", one["name"], one["created_at"]))
    if as_json:
        print_json(told)
        return
    if not told:
        typer.echo("There are no keys yet. Make one: reverie keys create --name NAME")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "id", "status", "models", "limits", "budget", "spent", "expires")
    for one in told:
        cells = [
            one["name"],
            one["id"],
            one["status"],
            _models(one),
            _limits(one),
            one["budget"] or "",
            one["spent"] or "",
            one["expires_at"] or "never",
        ]
        table.add_row(*(Text(cell) for cell in cells))  # Text: a name is no markup
    print_table(table)


@app.command()
def show(which: _Which, config: Config = None, as_json: AsJson = False) -> None:
    """Show a key: its limits, and what it has spent in the running period.

    Example: reverie keys show alice
    """
    from reverie.gateway.accounts import key_service
    from reverie.store.keys import now_ms

    now = now_ms()
    with plain_errors(_OPTIONS), store_at(config) as store, store.read() as connection:
        [told] = key_service.describe(connection, [key_service.find(connection, which, now)], now)
    if as_json:
        print_json(told)
    else:
        _print_key(told)


@app.command()
def revoke(which: _Which, config: Config = None, as_json: AsJson = False) -> None:
    """End a key, for ever. Requests that run already go on to their end.

    Example: reverie keys revoke alice
    """
    from reverie.gateway.accounts import key_service
    from reverie.store.keys import now_ms

    now = now_ms()
    with plain_errors(_OPTIONS), store_at(config) as store, store.write() as connection:
        key = key_service.revoke(connection, which, now)
        [told] = key_service.describe(connection, [key], now)
    if as_json:
        print_json(told)
    else:
        typer.echo(f"The key {key.name} ({key.id}) is revoked.")


@app.command()
def rotate(which: _Which, config: Config = None, as_json: AsJson = False) -> None:
    """Give a key a new secret, and show it, once. All else of the key stays.

    The old secret ends within a second.

    Example: reverie keys rotate alice
    """
    from reverie.gateway.accounts import key_service
    from reverie.store.keys import now_ms

    now = now_ms()
    with plain_errors(_OPTIONS), store_at(config) as store, store.write() as connection:
        key, secret = key_service.rotate(connection, which, now)
        [told] = key_service.describe(connection, [key], now)
    _show_secret(told, secret, "rotated: its old secret ends within a second", as_json)


# What was written -------------------------------------------------------------------------


def _listed(written: str) -> list[str]:
    return [name for part in written.split(",") if (name := part.strip())]


def _model_limits(written: list[str]) -> dict[str, RateLimits]:
    """Read ``MODEL:rpm=10,tpm=1000``; a model's name may hold a colon itself."""
    from reverie.store.keys import RateLimits

    limits: dict[str, RateLimits] = {}
    for one in written:
        model, _, pairs = one.rpartition(":")
        counts: dict[str, int] = {}
        for pair in pairs.split(","):
            kind, _, count = (part.strip() for part in pair.partition("="))
            if kind not in RateLimits.__struct_fields__ or not count.isdecimal() or kind in counts:
                raise _wrong_model_limit()
            counts[kind] = int(count[:12])
        if not model or model in limits:
            raise _wrong_model_limit()
        limits[model] = RateLimits(**counts)
    return limits


def _wrong_model_limit() -> typer.BadParameter:
    return typer.BadParameter(
        "write MODEL:rpm=10,tpm=1000,concurrency=2, with one or more of these, once a model",
        param_hint="'--model-limit'",
    )


def _unknown_models(key: Key, settings: Settings) -> list[str]:
    """Names in a key that no model of this configuration has: allowed, but perhaps a slip."""
    known = {name for model in settings.models for name in (model.name, *model.aliases)}
    return sorted({*(key.models or ()), *key.model_limits} - known)


# What is shown ----------------------------------------------------------------------------


def _all(store: Store) -> list[dict[str, Any]]:
    from reverie.gateway.accounts import key_service
    from reverie.store import keys
    from reverie.store.keys import now_ms

    now = now_ms()
    told: list[dict[str, Any]] = []
    with store.read() as connection:
        while page := keys.listed(connection, after=told[-1]["id"] if told else "", limit=_PAGE):
            told += key_service.describe(connection, page, now)
    return told


def _show_secret(told: dict[str, Any], secret: str, done: str, as_json: bool) -> None:
    if as_json:
        print_json({**told, "secret": secret})
        return
    typer.echo(f"The key {told['name']} ({told['id']}) is {done}.")
    typer.echo("This is its secret. Keep it now: it won't be shown again.\n")
    typer.echo(secret)


def _print_key(told: dict[str, Any]) -> None:
    spent = f"{told['spent']} since {told['spent_since']}" if told["spent"] else None
    lines = {
        "name": told["name"],
        "id": told["id"],
        "status": told["status"],
        "models": _models(told),
        "limits": _limits(told) or "none",
        "budget": told["budget"] or "none",
        "spent": spent,
        "weight": told["weight"],
        "created": told["created_at"],
        "expires": told["expires_at"] or "never",
        "revoked": told["revoked_at"],
    }
    for what, value in lines.items():
        if value is not None:
            typer.echo(f"{what:8} {value}")


def _models(told: dict[str, Any]) -> str:
    return "all" if told["models"] is None else ", ".join(told["models"])


def _limits(told: dict[str, Any]) -> str:
    """As in ``rpm=60, tpm=20000; big: rpm=10``."""
    of_models = [f"{model}: {_counts(one)}" for model, one in told["model_limits"].items()]
    return "; ".join(filter(None, [_counts(told), *of_models]))


def _counts(limits: dict[str, Any]) -> str:
    kinds = ("rpm", "tpm", "concurrency")
    return ", ".join(f"{kind}={limits[kind]}" for kind in kinds if limits[kind] is not None)
