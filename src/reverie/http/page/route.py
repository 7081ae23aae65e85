"""``/`` and ``/page/…``: the page and its files.

Nobody needs a key for them: they hold nothing of anybody's. What the page asks of the API takes
the key that its user gives it.
"""

from __future__ import annotations

import asyncio

from reverie.errors import MethodNotAllowed, NotFound, ReverieError
from reverie.http.access import Access
from reverie.http.connection.exchange import Headers, Receive, Scope, Send, header, respond
from reverie.http.connection.senders import without_body
from reverie.http.dialects import OPENAI
from reverie.http.page.assets import Asset, load
from reverie.http.replies import id_headers, refuse

ROOT = "/"
_BELOW = "/page/"

_POLICY = b"; ".join(
    (
        b"default-src 'none'",
        b"script-src 'self'",
        b"style-src 'self'",
        b"img-src 'self' data: blob:",
        b"connect-src 'self'",
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
    )
)
"""Nothing from elsewhere, no script or style within the page, and no frame around it: should text
of a model ever become HTML, it could neither run nor tell anybody."""
_SECURITY: Headers = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_REVALIDATE = (b"cache-control", b"no-cache")
_IMMUTABLE = (b"cache-control", b"public, max-age=31536000, immutable")


class Page:
    """An ASGI application that answers ``/`` and all below ``/page/``.

    Args:
        preflights: browsers' OPTIONS requests are answered in front of it.
    """

    def __init__(self, access: Access, *, preflights: bool) -> None:
        self._access = access
        self._methods = "GET, HEAD, OPTIONS" if preflights else "GET, HEAD"

    def has(self, path: str) -> bool:
        """True if it is the one to answer on this path."""
        return path == ROOT or path.startswith(_BELOW)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._access.request_id(scope)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, without_body(send)
        try:
            asset, caching = await self._find(scope)
        except ReverieError as error:
            await refuse(scope, send, OPENAI, error, request_id)
            return
        vary = b"Accept-Encoding, Accept" if scope["path"] == ROOT else b"Accept-Encoding"
        headers = [
            *id_headers(OPENAI, request_id),
            *_SECURITY,
            caching,
            (b"etag", asset.etag),
            (b"vary", vary),
        ]
        if _is_known(scope, asset.etag):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body"})
            return
        headers.append((b"content-type", asset.content_type))
        body = asset.body
        if takes_gzip(header(scope, b"accept-encoding") or b""):
            headers.append((b"content-encoding", b"gzip"))
            body = asset.compressed
        await respond(send, 200, body, headers)

    async def _find(self, scope: Scope) -> tuple[Asset, tuple[bytes, bytes]]:
        assets = await asyncio.to_thread(load) if not load.cache_info().currsize else load()
        path = scope["path"]
        if path == ROOT:
            asset, caching = assets.page, _REVALIDATE
        else:
            build, _, name = path.removeprefix(_BELOW).partition("/")
            found = assets.files.get(name) if build == assets.build else None
            if found is None:
                raise NotFound("The page has no such file; load the page again.")
            asset, caching = found, _IMMUTABLE
        if scope["method"] != "GET":
            raise MethodNotAllowed(self._methods)
        return asset, caching


def wants_page(scope: Scope) -> bool:
    """True for a browser that opens an address, rather than a program that looks for Ollama."""
    return scope["method"] == "GET" and b"text/html" in (header(scope, b"accept") or b"").lower()


def takes_gzip(accepted: bytes) -> bool:
    """Whether an ``Accept-Encoding`` names gzip (RFC 9110, 12.5.3)."""
    for part in accepted.lower().split(b","):
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        if name in (b"gzip", b"*"):
            return not any(_is_zero(parameter) for parameter in parameters)
    return False


def _is_zero(parameter: bytes) -> bool:
    name, _, value = parameter.partition(b"=")
    return name.strip() == b"q" and not value.strip().strip(b"0.")


def _is_known(scope: Scope, etag: bytes) -> bool:
    """True if the client has the file already."""
    known = (header(scope, b"if-none-match") or b"").split(b",")
    return any(one.strip() in (etag, b"*") for one in known)
