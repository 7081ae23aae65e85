"""``reverie keys``: who may call, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie.cli.accounts import (
    AsJson,
    Config,
    plain_errors,
    print_json,
    use_store,
)
from reverie.cli.key_output import print_key, print_keys, show_secret
from reverie.settings import Settings, load
from reverie.times import now_ms

if TYPE_CHECKING:
    from reverie.gateway.accounts.key_service import Key, RateLimits

app = typer.Typer(
    name="keys",
    help="Create, list, change and revoke the keys that callers need.",
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
    "tags": "--tag",
    "key": "NAME|ID",
}
_FILTERS = {"q": "--search", "tag": "--tag", "status": "--status"}


_Models = Annotated[
    str | None, typer.Option(metavar="A,B", help="The models that it may use; default: all.")
]
_Rpm = Annotated[int | None, typer.Option(metavar="N", help="Requests per minute.")]
_Tpm = Annotated[
    int | None, typer.Option(metavar="N", help="Tokens per minute, prompts and answers together.")
]
_Concurrency = Annotated[int | None, typer.Option(metavar="N", help="Requests at once.")]
_Budget = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT/PERIOD", help="What it may spend: 10USD/month, 0.50EUR/day."),
]
_Expires = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="When it ends: 30d, 12h, or 2027-01-31 (0:00 UTC)."),
]
_Weight = Annotated[
    int | None,
    typer.Option(metavar="N", help="Its share of a full server, beside other keys'; 1 unless set."),
]
_ModelLimit = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL:LIMITS",
        help="Limits on one model, as big:rpm=10,tpm=1000,concurrency=2; repeatable.",
    ),
]
_Tag = Annotated[
    list[str] | None,
    typer.Option(help="A label, as team:search, to find it and sum up its use by; repeatable."),
]


@app.command()
def create(
    name: Annotated[
        str, typer.Option(help="What lists and log lines call it; no two keys in use share it.")
    ],
    models: _Models = None,
    rpm: _Rpm = None,
    tpm: _Tpm = None,
    concurrency: _Concurrency = None,
    budget: _Budget = None,
    expires: _Expires = None,
    weight: _Weight = None,
    model_limit: _ModelLimit = None,
    tag: _Tag = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and show its secret, once.

    From then on callers need a key, on this machine too. Limits that aren't given don't exist.

    Example: reverie keys create --name alice --models smollm2-135m --rpm 60 --tpm 20000
    --budget 10USD/month --expires 90d --tag team:search --tag prod
    """
    from reverie.gateway.accounts import key_service

    settings = load(config)
    with plain_errors(_OPTIONS):
        spec = key_service.KeySpec(
            name=name,
            models=None if models is None else tuple(_split(models)),
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            budget=budget,
            expires_at=expires,
            weight=1 if weight is None else weight,
            model_limits=_model_limits(model_limit or []),
            tags=tuple(tag or ()),
        )
        now = now_ms()
        key_service.key_of(spec, now)  # before the store is opened: a mistake must not create one
        with use_store(settings, create=True) as store, store.write() as connection:
            key, secret = key_service.create(connection, spec, now)
            [described] = key_service.describe(connection, [key], now)
    _note_unknown_models(key, settings)
    show_secret(described, secret, "made", as_json)


@app.command()
def update(
    which: _Which,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    models: _Models = None,
    rpm: _Rpm = None,
    tpm: _Tpm = None,
    concurrency: _Concurrency = None,
    budget: _Budget = None,
    expires: _Expires = None,
    weight: _Weight = None,
    model_limit: _ModelLimit = None,
    tag: _Tag = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all its tags away.")] = False,
    clear: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help="Take a limit away: models, rpm, tpm, concurrency, budget, expires, model-limit "
            "or tag; several, as rpm,tpm.",
        ),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Change a key. What isn't given stays, and so does its secret.

    The key's next request is subject to its new limits, on every server that uses this store.
    The models, model limits and tags that are given replace all that there were.

    Example: reverie keys update alice --rpm 120 --budget 20USD/month --clear expires,models
    """
    from reverie.gateway.accounts import key_service

    settings = load(config)
    given = {
        "name": name,
        "models": None if models is None else tuple(_split(models)),
        "rpm": rpm,
        "tpm": tpm,
        "concurrency": concurrency,
        "budget": budget,
        "expires_at": expires,
        "weight": weight,
        "model_limits": _model_limits(model_limit) if model_limit else None,
        "tags": tuple(tag) if tag else None,
    }
    wanted: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    cleared = _cleared([*(clear or ()), *(["tag"] if no_tags else ())], wanted)
    changes = key_service.KeyChanges(**wanted, **cleared)
    now = now_ms()
    with plain_errors(_OPTIONS), use_store(settings) as store, store.write() as connection:
        key = key_service.update(connection, which, changes, now)
        [described] = key_service.describe(connection, [key], now)
    _note_unknown_models(key, settings)
    if as_json:
        print_json(described)
    else:
        typer.echo(f"The key {key.name} ({key.id}) is changed.\n")
        print_key(described)


@app.command("list")
def list_keys(
    q: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="TEXT",
            help="Only those with this in the name, or whose id begins so.",
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only those that are active, expired or revoked.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List the keys, those in use first.

    Example: reverie keys list --tag team:search --status active
    """
    from reverie.gateway.accounts import key_service

    now = now_ms()
    with (
        plain_errors(_OPTIONS | _FILTERS),
        use_store(load(config)) as store,
        store.read() as connection,
    ):
        page = key_service.page(connection, now, q=q, tag=tag, status=status)
        found = key_service.describe(connection, page.keys, now)
    found.sort(key=lambda key: (key["status"] != "active", key["name"], key["created_at"]))
    if as_json:
        print_json(found)
        return
    if not found:
        none = "There are no keys yet. Make one: reverie keys create --name NAME"
        typer.echo("There are no such keys." if q or tag or status else none)
        return
    print_keys(found)


@app.command()
def show(which: _Which, config: Config = None, as_json: AsJson = False) -> None:
    """Show a key: its limits, and what it has spent in the current period.

    Example: reverie keys show alice
    """
    from reverie.gateway.accounts import key_service

    now = now_ms()
    with plain_errors(_OPTIONS), use_store(load(config)) as store, store.read() as connection:
        key = key_service.find(connection, which, now)
        [described] = key_service.describe(connection, [key], now)
    if as_json:
        print_json(described)
    else:
        print_key(described)


@app.command()
def revoke(which: _Which, config: Config = None, as_json: AsJson = False) -> None:
    """Revoke a key for good. Requests that are already running are finished.

    Example: reverie keys revoke alice
    """
    from reverie.gateway.accounts import key_service

    now = now_ms()
    with plain_errors(_OPTIONS), use_store(load(config)) as store, store.write() as connection:
        key = key_service.revoke(connection, which, now)
        [described] = key_service.describe(connection, [key], now)
    if as_json:
        print_json(described)
    else:
        typer.echo(f"The key {key.name} ({key.id}) is revoked.")


@app.command()
def rotate(which: _Which, config: Config = None, as_json: AsJson = False) -> None:
    """Give a key a new secret and show it, once. Everything else about the key stays.

    The old secret stops working within a second.

    Example: reverie keys rotate alice
    """
    from reverie.gateway.accounts import key_service

    now = now_ms()
    with plain_errors(_OPTIONS), use_store(load(config)) as store, store.write() as connection:
        key, secret = key_service.rotate(connection, which, now)
        [described] = key_service.describe(connection, [key], now)
    show_secret(described, secret, "rotated: its old secret ends within a second", as_json)


# Input ------------------------------------------------------------------------------------


def _split(written: str) -> list[str]:
    return [name for part in written.split(",") if (name := part.strip())]


def _cleared(written: list[str], wanted: dict[str, Any]) -> dict[str, Any]:
    """The fields that ``--clear`` names.

    Raises:
        typer.BadParameter: it can't be cleared or is set as well, or nothing is to change at all.
    """
    fields = {option.removeprefix("--"): field for field, option in _OPTIONS.items()}
    names = [name for one in written for name in _split(one)]
    for name in names:
        if name in ("name", "weight", _OPTIONS["key"]) or name not in fields:
            raise typer.BadParameter(
                "write one or more of models, rpm, tpm, concurrency, budget, expires, model-limit, "
                "tag",
                param_hint="'--clear'",
            )
        if fields[name] in wanted:
            option = "--no-tags" if name == "tag" else "--clear"
            raise typer.BadParameter(f"--{name} is given as well", param_hint=f"'{option}'")
    if not names and not wanted:
        raise typer.BadParameter(
            "say what to change, as in --rpm 120 or --clear rpm", param_hint=f"'{_OPTIONS['key']}'"
        )
    return {fields[name]: None for name in names}


def _model_limits(written: list[str]) -> dict[str, RateLimits]:
    """Read ``MODEL:rpm=10,tpm=1000``. A model's name may contain a colon."""
    from reverie.gateway.accounts.key_service import RateLimits

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


def _note_unknown_models(key: Key, settings: Settings) -> None:
    """Note names that no model of this configuration has: allowed, but perhaps a mistake."""
    known = {name for model in settings.models for name in (model.name, *model.aliases)}
    for unknown in sorted({*(key.models or ()), *key.model_limits} - known):
        typer.echo(f"note: no model here is called {unknown}", err=True)
