"""``/admin/v1/live``: what the gateway does now, once or as a stream; and an end to one request.

All watchers share one snapshot a second, however many there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse

from reverie.errors import NotFound
from reverie.gateway.cluster_view import DescribeCluster
from reverie.gateway.live import Live
from reverie.gateway.pulls import Pulls
from reverie.gateway.serving.served_models import ServedModels
from reverie.gateway.siblings import Siblings
from reverie.http.admin.router import NO_PARAMETERS, Parameters, admin_router

_INTERVAL = 1.0
"""Seconds between the events of a stream."""
_OF_CLUSTER = 500
"""Engines, and machines, of a cluster that are listed."""


class LiveQuery(Parameters):
    stream: bool = False
    """A snapshot each second, as server-sent events, until watcher or server leave."""


class _Feed:
    """Snapshots as JSON, each made once for all who watch."""

    def __init__(
        self,
        live: Live,
        models: Callable[[], ServedModels],
        pulls: Pulls,
        gateway: Callable[[], Mapping[str, Any]],
        describe_cluster: DescribeCluster,
        siblings: Siblings,
    ) -> None:
        self._describe_cluster = describe_cluster
        self._siblings = siblings
        self._making = asyncio.Lock()
        self._live = live
        self._models = models
        self._pulls = pulls
        self._gateway = gateway
        self._made_at = -_INTERVAL
        self._made = b""

    async def latest(self) -> bytes:
        async with self._making:
            if time.monotonic() - self._made_at >= 0.9 * _INTERVAL:
                self._made_at = time.monotonic()
                others = [msgspec.json.decode(one) for one in await self._siblings.ask("live")]
                snapshot = self._live.snapshot(
                    self._models().all, self._pulls.running, self._gateway(), others
                )
                snapshot["cluster"] = self._describe_cluster(_OF_CLUSTER)
                self._made = msgspec.json.encode(snapshot)
            return self._made

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Until the watcher leaves, or the server has drained."""
        while not self._live.over.is_set():
            yield b"data: %b\n\n" % await self.latest()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._live.over.wait()


def routes(
    live: Live,
    models: Callable[[], ServedModels],
    pulls: Pulls,
    gateway: Callable[[], Mapping[str, Any]],
    describe_cluster: DescribeCluster,
    siblings: Siblings,
) -> APIRouter:
    """The routes.

    Args:
        models: returns the models that are served at the moment.
        gateway: returns what is true of all of it.
    """
    router = admin_router()
    feed = _Feed(live, models, pulls, gateway, describe_cluster, siblings)

    @router.get(
        "/live",
        summary="The requests that run, the queues, and the last hour",
        response_class=Response,
        responses={
            200: {
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/event-stream": {"schema": {"type": "object"}},
                }
            }
        },
    )
    async def show_live(query: LiveQuery = Query()) -> Response:  # noqa: B008
        if query.stream:
            headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            return StreamingResponse(feed.events(), 200, headers, "text/event-stream")
        return Response(await feed.latest(), media_type="application/json")

    @router.post(
        "/requests/{request_id}/cancel",
        summary="End a request that runs",
        dependencies=NO_PARAMETERS,
    )
    async def cancel_request(request_id: str) -> dict[str, Any]:
        ended = live.cancel(request_id)
        ended += sum(map(int, await siblings.ask("cancel", request_id.encode())))
        if not ended:
            raise NotFound("No request with this id runs here.", param="request_id")
        return {"id": request_id, "cancelled": ended}

    return router
