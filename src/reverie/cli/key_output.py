"""Keys as ``reverie keys`` prints them: a table, one in full, a secret that is shown once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from reverie.cli.accounts import print_json
from reverie.cli.tables import print_rows


def show_secret(key: dict[str, Any], secret: str, done: str, as_json: bool) -> None:
    if as_json:
        print_json({**key, "secret": secret})
        return
    typer.echo(f"The key {key['name']} ({key['id']}) is {done}.")
    typer.echo("This is its secret. Keep it now: it won't be shown again.\n")
    typer.echo(secret)


def print_keys(found: Sequence[dict[str, Any]]) -> None:
    heads = ["name", "id", "status", "tags", "models", "limits", "budget", "spent", "expires"]
    rows = [_row(key) for key in found]
    print_rows(heads, rows, right=("budget", "spent"), whole=("id", "status"))


def _row(key: dict[str, Any]) -> list[str]:
    return [
        key["name"],
        key["id"],
        key["status"],
        ", ".join(key["tags"]),
        _models(key),
        _limits(key),
        key["budget"] or "",
        key["spent"] or "",
        _moment(key["expires_at"] or "never"),
    ]


def _moment(written: str) -> str:
    """A moment to the minute, in a form that breaks where a column is narrow."""
    return written[:16].replace("T", " ")


def print_key(key: dict[str, Any]) -> None:
    spent = f"{key['spent']} since {key['spent_since']}" if key["spent"] else None
    lines = {
        "name": key["name"],
        "id": key["id"],
        "status": key["status"],
        "tags": ", ".join(key["tags"]) or None,
        "models": _models(key),
        "limits": _limits(key) or "none",
        "budget": key["budget"] or "none",
        "spent": spent,
        "weight": key["weight"],
        "created": key["created_at"],
        "expires": key["expires_at"] or "never",
        "revoked": key["revoked_at"],
    }
    for what, value in lines.items():
        if value is not None:
            typer.echo(f"{what:8} {value}")


def _models(key: dict[str, Any]) -> str:
    return "all" if key["models"] is None else ", ".join(key["models"])


def _limits(key: dict[str, Any]) -> str:
    """The limits, as in ``rpm=60, tpm=20000; big: rpm=10``."""
    of_models = [f"{model}: {_counts(one)}" for model, one in key["model_limits"].items()]
    return "; ".join(filter(None, [_counts(key), *of_models]))


def _counts(limits: dict[str, Any]) -> str:
    kinds = ("rpm", "tpm", "concurrency")
    return ", ".join(f"{kind}={limits[kind]}" for kind in kinds if limits[kind] is not None)
