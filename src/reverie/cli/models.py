"""``reverie models``: the models that can be served, and where they are."""

from __future__ import annotations

from typing import Any

import typer

from reverie.cli.accounts import AsJson, print_json


def models(as_json: AsJson = False) -> None:
    """List the models of the catalogue and those in the hub's cache.

    Any other GGUF model can be served too: by hf:OWNER/REPO[/FILE.gguf], or by its path.
    """
    rows = [*_catalogue(), *_cached()]
    if as_json:
        print_json(rows)
        return
    lines = [("name", "size", "licence", "where")]
    for row in rows:
        where = row["path"] or f"not here: reverie pull {row['name']}"
        size = f"{row['size'] / 1e6:.1f} MB"
        lines.append((row["name"], size, row["licence"] or "-", where))
    widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:-1]]
    for *cells, where in lines:  # never cut to the terminal's width, so that the path can be copied
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        typer.echo("  ".join([*padded, where]))


def _catalogue() -> list[dict[str, Any]]:
    from reverie.models.catalogue import CATALOGUE
    from reverie.models.store import find

    return [
        {
            "name": entry.name,
            "aliases": list(entry.aliases),
            "size": entry.size,
            "licence": entry.licence,
            "path": str(path) if (path := find(entry.name)) else None,
        }
        for entry in CATALOGUE
    ]


def _cached() -> list[dict[str, Any]]:
    from reverie.models.hub import cached_models

    return [
        {
            "name": f"hf:{reference.repo}/{reference.file}",
            "aliases": [],
            "size": size,
            "licence": None,
            "path": str(path),
        }
        for reference, path, size in cached_models()
    ]
