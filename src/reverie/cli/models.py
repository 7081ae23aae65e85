"""``reverie models``: what can be served, and what is here."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the catalogue's models and whether they are on this machine.

    Any GGUF model can be served besides: by hf:OWNER/REPO[/FILE.gguf], or by its path.
    """
    from reverie.models.catalogue import CATALOGUE
    from reverie.models.store import find

    rows = [
        {
            "name": entry.name,
            "aliases": list(entry.aliases),
            "size": entry.size,
            "licence": entry.licence,
            "path": str(path) if (path := find(entry.name)) else None,
        }
        for entry in CATALOGUE
    ]
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "size", "licence", "where")
    for row, entry in zip(rows, CATALOGUE, strict=True):
        where = row["path"] or f"not here: reverie pull {entry.name}"
        table.add_row(entry.name, f"{entry.size / 1e6:.1f} MB", entry.licence, str(where))
    Console().print(table)
