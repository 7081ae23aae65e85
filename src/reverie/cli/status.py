"""``reverie status``: how a server is doing, as it tells itself."""

from __future__ import annotations

from typing import Any

import typer

from reverie.cli.accounts import AsJson, print_json
from reverie.cli.cluster_lines import cluster_line, cluster_trouble
from reverie.cli.connection import (
    ADMIN_KEY_VARIABLE,
    DEFAULT_URL,
    CallFailed,
    Connection,
    Url,
    key_from,
    without_controls,
)
from reverie.cli.tables import print_rows

_METRICS = {
    "reverie_queue_length": "waiting",
    "reverie_in_flight": "in_flight",
    "reverie_slots": "slots",
}
"""Metrics that are summed by model → what they are called here."""


def status(as_json: AsJson = False, url: Url = None) -> None:
    """Say how a server is doing: its health, its models, slots and queue.

    Slots and the queue are told to callers on the server's own machine, and to those with a key.
    With REVERIE_ADMIN_KEY each backend is listed, too, and what the cluster has, if there is one.
    Exits with 1 if no model can answer, or nothing answers at all.

    Example: reverie status --json
    """
    connection = Connection(url or DEFAULT_URL, key_from())
    report = _report(connection)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report["status"] == "ERROR":
        raise typer.Exit(1)


def _report(connection: Connection) -> dict[str, Any]:
    health = connection.get_json("/health", also=503)
    try:
        states = {
            without_controls(name): {"state": state} for name, state in health["models"].items()
        }
        report = {
            "url": connection.url,
            "page": f"{connection.url}/",
            **{name: health[name] for name in ("status", "version", "draining", "failing")},
        }
    except (KeyError, TypeError, AttributeError):
        raise CallFailed(f"{connection.url} doesn't answer as Reverie does.") from None
    for name, figures in _figures(connection).items():
        states.setdefault(name, {"state": "unknown"}).update(figures)
    for name, more in _aliases(connection).items():
        states.setdefault(name, {"state": "unknown"}).update(more)
    report["models"] = [{"name": name, **about} for name, about in states.items()]
    admin_key = key_from(ADMIN_KEY_VARIABLE)
    if admin_key is not None:
        report["backends"] = connection.get_json("/admin/v1/backends", key=admin_key)["data"]
        cluster = connection.get_json("/admin/v1/cluster", key=admin_key, also=404)
        report["cluster"] = None if "error" in cluster else cluster
    return report


def _figures(connection: Connection) -> dict[str, dict[str, int]]:
    """Slots, requests and the queue by model; empty where the server doesn't tell this caller."""
    code, body = connection.get("/metrics")
    if code != 200:
        return {}
    from prometheus_client.parser import text_string_to_metric_families

    figures: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(body.decode(errors="replace")):
        for sample in family.samples:
            if sample.name in _METRICS and "model" in sample.labels:
                of_model = figures.setdefault(sample.labels["model"], {})
                name = _METRICS[sample.name]
                of_model[name] = of_model.get(name, 0) + int(sample.value)
    return figures


def _aliases(connection: Connection) -> dict[str, dict[str, Any]]:
    """What the list of models adds: aliases and the task; empty where a key is wanted."""
    code, body = connection.get("/v1/models")
    if code != 200:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for entry in connection.parsed(body)["data"]:
        about = found.setdefault(entry.get("alias_of", entry["id"]), {"aliases": []})
        if "alias_of" in entry:
            about["aliases"].append(entry["id"])
        else:
            about["task"] = entry.get("task", "generate")
    return found


def _print(report: dict[str, Any]) -> None:
    draining = ", draining" if report["draining"] else ""
    typer.echo(f"{report['status']}{draining}: Reverie {report['version']} at {report['url']}")
    typer.echo(f"A page to chat on: {report['page']}")
    if report["failing"]:
        typer.echo(f"failing: {', '.join(map(str, report['failing']))}")
    if cluster := report.get("cluster"):
        for line in (cluster_line(cluster), *cluster_trouble(cluster)):
            typer.echo(without_controls(line))
    typer.echo()
    rows = [
        [
            model["name"],
            model["state"],
            model.get("task", ""),
            _busy(model),
            _text(model.get("waiting")),
            ", ".join(model.get("aliases", ())),
        ]
        for model in report["models"]
    ]
    print_rows(
        ["model", "state", "task", "slots", "queue", "aliases"], rows, right=("slots", "queue")
    )
    if "backends" in report:
        typer.echo()
        _print_backends(report["backends"])


def _print_backends(backends: list[dict[str, Any]]) -> None:
    rows = [
        [
            backend["model"],
            backend["name"],
            "ready" if backend["ready"] else "not ready",
            backend["state"],
            backend["reason"] or "",
            _busy(backend),
            _text(backend["tokens_per_second"]),
        ]
        for backend in backends
    ]
    heads = ["model", "backend", "state", "circuit", "reason", "slots", "tokens/s"]
    print_rows(heads, rows, right=("slots", "tokens/s"))


def _busy(about: dict[str, Any]) -> str:
    """Slots in use, of all: ``2/8``."""
    return f"{about['in_flight']}/{about['slots']}" if "slots" in about else ""


def _text(value: Any) -> str:
    return "" if value is None else str(value)
