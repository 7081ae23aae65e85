"""``GET /admin/v1/cluster``: the machines and engines of the cluster, as its manager told last."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from reverie.errors import NotFound
from reverie.gateway.cluster_view import DescribeCluster
from reverie.http.admin.router import NO_PARAMETERS, admin_router
from reverie.http.operations.errors import not_found


def routes(describe: DescribeCluster) -> APIRouter:
    """The routes."""
    router = admin_router()

    @router.get(
        "/cluster",
        summary="The machines and engines of the cluster",
        dependencies=NO_PARAMETERS,
        responses=not_found("No cluster is configured"),
    )
    async def show_cluster() -> dict[str, Any]:
        described = describe(None)
        if described is None:
            raise NotFound(
                "No cluster is configured. Models run on many machines once the configuration has "
                "[cluster] with the address of one."
            )
        return described

    return router
