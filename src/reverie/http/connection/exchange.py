"""One HTTP exchange over ASGI: the body in, within bounds; a whole answer out; what went wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from reverie.errors import ClientGone, RequestTimeout, RequestTooLarge, ReverieError, ServerError
from reverie.http.connection.encodings import coding_of, decompress
from reverie.http.connection.extensions import take_body
from reverie.log import fields
from reverie.memory import forget_origin

logger = logging.getLogger("reverie.request")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_PIECE = 64 * 1024
"""Bytes of a body that are passed to one ``send``."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    firsts: dict[bytes, bytes] | None = scope.get(_FIRSTS)
    if firsts is None:
        firsts = scope[_FIRSTS] = dict(reversed(scope["headers"]))
    return firsts.get(name)


_FIRSTS = "reverie.headers"
"""Where a scope keeps its headers by their names, of which several are looked up."""


async def read_body(scope: Scope, receive: Receive, *, limit: int, timeout: float) -> bytes:
    """Read a request's whole body, and unpack it if it is compressed.

    Raises:
        UnsupportedEncoding: it is compressed in a way that isn't read here.
        InvalidRequest: it can't be unpacked.
        RequestTooLarge: more than ``limit`` bytes are announced, arrive, or are unpacked.
        RequestTimeout: it took more than ``timeout`` seconds.
        ClientGone: the client left before its end.
    """
    coding = None
    if header(scope, b"content-encoding") is not None:
        named = (value for name, value in scope["headers"] if name == b"content-encoding")
        coding = coding_of(named)
    body = await _read_all(scope, receive, limit=limit, timeout=timeout)
    if coding is None or not body:
        return body
    return await asyncio.to_thread(decompress, body, coding, limit)


async def _read_all(scope: Scope, receive: Receive, *, limit: int, timeout: float) -> bytes:
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    whole = take_body(scope)
    if whole is not None:
        if len(whole) > limit:
            raise _too_large(limit)
        return whole
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("The client left before its request was complete.")
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise RequestTimeout(
            f"The request body did not arrive within {timeout:g} s. Try again."
        ) from None


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body may have at most {limit} bytes. Send less.")


async def respond(
    send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]], *, begin: int = 0
) -> None:
    """Send a whole answer, from byte ``begin`` of its body on.

    A large body goes out in pieces, as fast as the client reads: ``send`` copies what it is given.
    """
    length = (b"content-length", b"%d" % (len(body) - begin))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    while len(body) - begin > _PIECE:
        piece, begin = body[begin : begin + _PIECE], begin + _PIECE
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": body[begin:], "more_body": False})


def as_reverie_error(failure: Exception, request_id: str) -> ReverieError:
    """A failure as an error of ours. Any other exception is a bug, and is logged as such, once."""
    if isinstance(failure, ReverieError):
        forget_origin(failure)
        return failure
    logger.error(
        "a request failed in Reverie itself", exc_info=failure, extra=fields(id=request_id)
    )
    forget_origin(failure)
    return ServerError("Something went wrong in the gateway. Its operator's log says why.")
