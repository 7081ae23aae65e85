"""The admin routes, put together behind their guard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp

from reverie import log
from reverie.correlation import request_id
from reverie.errors import AccountsUnavailable, InvalidRequest, NotFound, ReverieError, StoreFailure
from reverie.gateway.accounts.key_service import InvalidInput, KeyNotFound
from reverie.gateway.accounts.store import Store
from reverie.gateway.cluster_view import DescribeCluster
from reverie.gateway.live import Live
from reverie.gateway.pulls import Pulls
from reverie.gateway.serving.served_models import ServedModels
from reverie.gateway.siblings import Siblings
from reverie.http.access import Access
from reverie.http.admin import backends, cluster, keys, reload, requests, usage
from reverie.http.admin import live as live_routes
from reverie.http.admin import models as model_routes
from reverie.http.admin import pulls as pull_routes
from reverie.http.admin.guard import Guard
from reverie.http.admin.reload import Reload
from reverie.http.operations.errors import error_response

logger = logging.getLogger("reverie.admin")


def add_admin(
    app: FastAPI,
    access: Access,
    *,
    store: Store | None,
    models: Callable[[], ServedModels],
    live: Live,
    pulls: Pulls,
    gateway: Callable[[], Mapping[str, Any]],
    describe_cluster: DescribeCluster,
    reload_configuration: Reload,
    preview_reload: Reload,
    siblings: Siblings,
) -> ASGIApp:
    """Add the admin routes to an application; return it behind their guard.

    Args:
        store: without one, there are no routes for keys, usage and requests.
        models: returns the models that are served at the moment.
        live: what runs now.
        pulls: the models that are being fetched.
        gateway: returns what is true of all of it.
        siblings: the other processes of this gateway.
        preview_reload: gives what ``reload_configuration`` would change.
    """
    routers = [
        backends.routes(models, siblings),
        model_routes.routes(models, siblings),
        pull_routes.routes(pulls, siblings),
        live_routes.routes(live, models, pulls, gateway, describe_cluster, siblings),
        cluster.routes(describe_cluster),
        reload.routes(reload_configuration, preview_reload),
    ]
    if store is not None:
        routers += [keys.routes(store), usage.routes(store), requests.routes(store)]
    for router in routers:
        app.router.routes += router.routes
    for failure in (InvalidInput, StoreFailure):
        app.add_exception_handler(failure, _answer)
    return Guard(app, access)


async def _answer(_: Request, failure: Exception) -> Response:
    return error_response(_as_reverie_error(failure))


def _as_reverie_error(failure: Exception) -> ReverieError:
    """The error that the caller is sent; the store's own words go to the log alone."""
    if isinstance(failure, KeyNotFound):
        return NotFound(f"{failure.message[:1].upper()}{failure.message[1:]}.")
    if isinstance(failure, InvalidInput):
        return InvalidRequest(f"{failure.field}: {failure.message}.", param=failure.field)
    logger.warning("store failed", extra=log.fields(id=request_id(), reason=str(failure)))
    return AccountsUnavailable()
