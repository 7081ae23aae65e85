"""Makes the backends of each configured model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from reverie.backends.base import Backend
from reverie.backends.embedded import EmbeddedBackend
from reverie.backends.http import HttpBackend
from reverie.errors import ModelError
from reverie.models.store import find
from reverie.settings import ModelSettings, ServerSettings, Settings


def build_backends(
    settings: Settings, environ: Mapping[str, str] = os.environ
) -> list[tuple[ModelSettings, Sequence[Backend]]]:
    """Every model with its backends, none of them started.

    Args:
        environ: holds the backends' keys, under the configured names.

    Raises:
        ModelError: a model that should run here isn't on disk.
    """
    return [(model, backends_of(model, settings.server, environ)) for model in settings.models]


def backends_of(
    model: ModelSettings, server: ServerSettings, environ: Mapping[str, str] = os.environ
) -> Sequence[Backend]:
    """One model's backends, none of them started.

    Raises:
        ModelError: it should run here and isn't on disk.
    """
    if model.source is not None:
        path = find(model.source)
        if path is None:
            raise ModelError(
                f"The model {model.source} is not on disk. Fetch it: reverie pull {model.source}"
            )
        return [
            EmbeddedBackend(
                model,
                path,
                first_token_timeout=server.first_token_timeout,
                stall_timeout=server.stall_timeout,
            )
        ]
    return [
        HttpBackend(
            _name(index, backend.url),
            backend,
            model=backend.model or model.name,
            first_token_timeout=server.first_token_timeout,
            stall_timeout=server.stall_timeout,
            environ=environ,
            probing=True,
        )
        for index, backend in enumerate(model.backends)
    ]


def _name(index: int, url: str) -> str:
    """A backend's name: its index in the configuration and its host, neither of them secret."""
    return f"{index}:{urlsplit(url).netloc or 'socket'}"
