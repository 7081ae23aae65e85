"""The FastAPI application: everything but generation."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import reverie
from reverie.gateway.accounts.store import Store
from reverie.gateway.metrics import Metrics
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.siblings import Siblings
from reverie.http.access import Access
from reverie.http.connection.in_flight import InFlight
from reverie.http.operations import hardware, health, models, openapi, own_usage
from reverie.http.operations import metrics as prometheus
from reverie.http.operations.docs import add_docs
from reverie.http.operations.errors import translate_errors


def build(
    registry: ModelRegistry,
    access: Access,
    metrics: Metrics,
    in_flight: InFlight,
    store: Store | None,
    siblings: Siblings,
) -> FastAPI:
    """The application that answers every route that doesn't generate, save the admin routes."""
    app = FastAPIOffline(
        title="Reverie",
        version=reverie.__version__,
        description="Text generation with language models.",
        docs_url=None,
        redoc_url=None,
    )
    add_docs(app)
    app.router.redirect_slashes = False  # a slash at the end changes nothing already
    openapi.describe(app)
    translate_errors(app, preflights=bool(registry.settings.server.allow_origins))
    for router in (
        health.routes(registry, in_flight, siblings),
        hardware.routes(registry, access),
        prometheus.routes(metrics, access, siblings),
        models.routes(registry, access),
        own_usage.routes(store, access, registry),
    ):
        app.router.routes += router.routes
    return app
