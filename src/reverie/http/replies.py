"""What routes of every dialect answer alike: a refused method, an error, the request's id."""

from __future__ import annotations

from reverie.errors import ClientGone, MethodNotAllowed, RateStatus, RequestTimeout, ReverieError
from reverie.http.connection.exchange import Headers, Scope, Send, respond
from reverie.http.connection.protocol import drop
from reverie.http.dialects.base import Dialect
from reverie.settings import ServerSettings

JSON = (b"content-type", b"application/json")


def require_post(scope: Scope, settings: ServerSettings) -> None:
    """Refuse other methods.

    Raises:
        MethodNotAllowed
    """
    if scope["method"] != "POST":
        raise MethodNotAllowed("POST, OPTIONS" if settings.allow_origins else "POST")


async def refuse(
    scope: Scope, send: Send, dialect: Dialect, error: ReverieError, request_id: str
) -> None:
    """Answer with an error, unless the client is gone: it may have stopped reading only."""
    if isinstance(error, ClientGone):
        await drop(scope)
        return
    headers = [(k.lower().encode(), v.encode()) for k, v in error.headers.items()]
    if isinstance(error, RequestTimeout):
        headers.append((b"connection", b"close"))
    await respond(
        send,
        dialect.status(error),
        dialect.error_body(error),
        [*id_headers(dialect, request_id), JSON, *headers],
    )


def id_headers(dialect: Dialect, request_id: str) -> Headers:
    """The headers that carry a request's id."""
    return [(name, request_id.encode()) for name in dialect.id_headers]


def rate_headers(rate: RateStatus | None) -> Headers:
    """The ``x-ratelimit-*`` headers that tell what is left of the caller's limits."""
    if rate is None:
        return []
    return [(name.encode(), value.encode()) for name, value in rate.headers.items()]
