"""``/metrics``, for Prometheus."""

from __future__ import annotations

import asyncio

import prometheus_client
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from reverie.gateway.merged_metrics import merged
from reverie.gateway.metrics import Metrics
from reverie.gateway.siblings import Siblings
from reverie.http.access import Access
from reverie.http.operations.security import OR_NONE, checked_router


def routes(metrics: Metrics, access: Access, siblings: Siblings) -> APIRouter:
    router = checked_router("operations", access.admit_operator)

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
        openapi_extra=OR_NONE,
    )
    async def prometheus() -> Response:
        pages = [await metrics.render(), *await siblings.ask("metrics")]
        text = await asyncio.to_thread(merged, pages) if len(pages) > 1 else pages[0]
        return Response(text, headers={"content-type": prometheus_client.CONTENT_TYPE_LATEST})

    return router
