"""Puts the house together: settings in, an ASGI application with a start and a stop out."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from reverie.backends.base import Backend
from reverie.backends.build import build_backends
from reverie.errors import ConfigurationError, ReverieError
from reverie.gateway.auth import Authenticator, load_keys
from reverie.gateway.metrics import Metrics
from reverie.gateway.models import ServedModels
from reverie.http import operations
from reverie.http.dialects import LIVEPEER, OPENAI
from reverie.http.dialects.base import Dialect
from reverie.http.edge import Edge, is_loopback
from reverie.http.exchange import Message, Receive, Scope, Send
from reverie.http.generate import Generate, InFlight
from reverie.settings import ModelSettings, Settings

logger = logging.getLogger("reverie")

_GENERATION_ROUTES: dict[str, Dialect] = {
    "/llm": LIVEPEER,
    "/llm/": LIVEPEER,
    "/v1/chat/completions": OPENAI,
    "/chat/completions": OPENAI,
    "/llm/chat/completions": OPENAI,
}


def authenticator(settings: Settings, environ: Mapping[str, str] = os.environ) -> Authenticator:
    """The keys that are configured.

    Raises:
        ConfigurationError: the keys can't be read, or there are none and the address is open.
    """
    keys = load_keys(environ, settings.server.api_keys_file)
    if keys.open and not is_loopback(settings.server.host) and not settings.server.no_auth:
        raise ConfigurationError(
            [
                f"server.host: {settings.server.host} can be reached from other machines, and no "
                "API key is set: set REVERIE_API_KEYS, or pass --no-auth to serve everyone"
            ]
        )
    return keys


class Application:
    """Reverie as an ASGI application.

    ``backends`` replaces what the settings describe, for tests and for embedding.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str] = os.environ,
        backends: Sequence[tuple[ModelSettings, Sequence[Backend]]] | None = None,
    ) -> None:
        self.settings = settings
        self.models = ServedModels(
            settings, backends if backends is not None else build_backends(settings)
        )
        self.in_flight = InFlight()
        keys = authenticator(settings, environ)
        self.keyless = keys.open
        edge = Edge(keys, open_to_all=settings.server.no_auth)
        metrics = Metrics(self.models)
        self._edge = edge
        self._generate = {
            path: Generate(
                dialect,
                models=self.models,
                edge=edge,
                settings=settings.server,
                in_flight=self.in_flight,
                metrics=metrics,
            )
            for path, dialect in _GENERATION_ROUTES.items()
        }
        self._operations = operations.build(self.models, edge, metrics, self.in_flight)

    async def start(self) -> None:
        """Start the backends; returns before they are ready.

        Raises:
            ModelError: one can never become ready.
        """
        await self.models.start()

    async def stop(self) -> None:
        await self.models.stop()

    def end_requests(self, error: ReverieError) -> None:
        """Cut short what still runs."""
        self.in_flight.end_all(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        generate = self._generate.get(scope["path"])
        if generate is not None:
            await generate(scope, receive, send)
            return
        request_id = (b"x-request-id", self._edge.request_id(scope).encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), request_id]
            await send(message)

        await self._operations(scope, receive, send_with_id)
