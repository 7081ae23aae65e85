"""``reverie models``: the models that can be served, and where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reverie.cli.accounts import AsJson, print_json

if TYPE_CHECKING:
    from reverie.models.suggestions import Suggestion

_GB = 1e9


def models(
    suggest: Annotated[
        bool,
        typer.Option("--suggest", help="List models of the hub that fit into this machine."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models of the catalogue and those in the hub's cache.

    Any other GGUF model can be served too: by hf:OWNER/REPO[/FILE.gguf], or by its path.
    """
    if suggest:
        _suggest(as_json)
        return
    rows = [*_catalogue(), *_cached()]
    if as_json:
        print_json(rows)
        return
    lines: list[tuple[str, ...]] = [("name", "size", "licence", "where")]
    for row in rows:
        where = row["path"] or f"not here: reverie pull {row['name']}"
        size = f"{row['size'] / 1e6:.1f} MB"
        lines.append((row["name"], size, row["licence"] or "-", where))
    _print(lines)


def _print(lines: list[tuple[str, ...]]) -> None:
    """Print columns, never cut to the terminal's width, so that what is last can be copied."""
    widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:-1]]
    for *cells, where in lines:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        typer.echo("  ".join([*padded, where]))


def _suggest(as_json: bool) -> None:
    import asyncio

    from reverie.models.suggestions import fitting
    from reverie.runner.gpus import for_models

    main, of_gpu = asyncio.run(for_models())
    found = fitting(max(main, of_gpu))
    if as_json:
        print_json([_described(one, of_gpu) for one in found])
        return
    gpu = f", its largest GPU {of_gpu / _GB:.1f} GB" if of_gpu else ", no GPU that can be asked"
    typer.echo(f"This machine has {main / _GB:.1f} GB of memory{gpu}. What fits, largest first:\n")
    lines: list[tuple[str, ...]] = [("file", "memory", "runs on", "licence", "good for", "model")]
    for one in found:
        place = "GPU" if one.memory <= of_gpu else "CPU"
        sizes = (f"{one.size / _GB:.1f} GB", f"{one.memory / _GB:.1f} GB")
        lines.append((*sizes, place, one.licence, one.good_for, one.ref))
    _print(lines)
    typer.echo(
        '\nServe one: reverie serve --model MODEL (with task = "embed" or "rerank" in '
        "reverie.toml\nwhere that is what it is for). Sizes are estimates: parameters × bits, and "
        "for the memory\nthe KV cache with the default settings. These files are not pinned: their "
        "owners may change\nthem. Only smollm2-135m, which always fits, is checked by its SHA-256."
    )


def _described(one: Suggestion, of_gpu: int) -> dict[str, Any]:
    return {
        "name": one.ref,
        "task": one.task,
        "good_for": one.good_for,
        "parameters": int(one.parameters * 1e9),
        "quantization": one.quantization,
        "licence": one.licence,
        "size": one.size,
        "memory": one.memory,
        "fits_gpu": one.memory <= of_gpu,
        "pinned": False,
    }


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
