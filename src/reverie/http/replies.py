"""What routes of every dialect answer alike: bodies in, JSON and errors out, the request's id."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec

from reverie.errors import ClientGone, MethodNotAllowed, RateStatus, RequestTimeout, ReverieError
from reverie.http.connection.exchange import (
    Headers,
    Receive,
    Scope,
    Send,
    as_reverie_error,
    read_body,
    respond,
)
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


async def answer_json(
    scope: Scope, send: Send, dialect: Dialect, request_id: str, answer: Awaitable[Any]
) -> None:
    """Answer with what is awaited, as JSON, or with the error that it ends in."""
    try:
        body = msgspec.json.encode(await answer)
    except Exception as failure:
        error = as_reverie_error(failure, request_id)
        await refuse(scope, send, dialect, error, request_id)
    else:
        await respond(send, 200, body, [*id_headers(dialect, request_id), JSON])


async def read_within(settings: ServerSettings, scope: Scope, receive: Receive) -> bytes:
    """A request's whole body, within the configured size and time.

    Raises:
        ReverieError: as ``read_body``.
    """
    return await read_body(
        scope, receive, limit=settings.max_body_bytes, timeout=settings.body_timeout
    )


def id_headers(dialect: Dialect, request_id: str) -> Headers:
    """The headers that carry a request's id."""
    return [(name, request_id.encode()) for name in dialect.id_headers]


def rate_headers(rate: RateStatus | None) -> Headers:
    """The ``x-ratelimit-*`` headers that tell what is left of the caller's limits."""
    if rate is None:
        return []
    return [(name.encode(), value.encode()) for name, value in rate.headers.items()]
