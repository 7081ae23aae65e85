"""``/docs`` and ``/redoc``: the API's description as pages, which need no internet access.

Their links are relative, so that they work under whatever path a proxy puts this server.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse

_STATIC = "static-offline-docs"
"""Where ``fastapi_offline`` mounts the pages' scripts."""


def add_docs(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def swagger(request: Request) -> HTMLResponse:
        up = _up(request)
        return get_swagger_ui_html(
            openapi_url=f"{up}openapi.json",
            title=app.title,
            swagger_js_url=f"{up}{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{up}{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{up}{_STATIC}/favicon.png",
        )

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        up = _up(request)
        return get_redoc_html(
            openapi_url=f"{up}openapi.json",
            title=app.title,
            redoc_js_url=f"{up}{_STATIC}/redoc.standalone.js",
            redoc_favicon_url=f"{up}{_STATIC}/favicon.png",
            with_google_fonts=False,
        )


def _up(request: Request) -> str:
    """The way from the page's address, as its client wrote it, to the folder that it lies in."""
    return "../" if request.scope["raw_path"].endswith(b"/") else ""
