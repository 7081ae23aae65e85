"""What our protocol tells of a request beyond ASGI. On other servers ASGI itself has to do."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

_Scope: TypeAlias = MutableMapping[str, Any]

_EXCHANGE = "reverie.exchange"


class Flow(Protocol):
    """A connection's reading, which pauses at a large body."""

    def resume_reading(self) -> None:
        """Go on reading, if it has paused."""


class Exchange(Protocol):
    """A request and its answer, as the protocol has them."""

    body: bytes | bytearray
    """What has come of the body, and wasn't received."""
    more_body: bool
    disconnected: bool
    status: int
    """Of the answer; 0 until it has begun."""
    body_sent: int
    """Bytes of the answer's body that were written."""
    on_disconnect: Callable[[], None] | None

    @property
    def flow(self) -> Flow:
        """The connection's."""

    def write_chunk(self, data: bytes) -> bool:
        """Write bytes in the midst of a stream at once; False: send them as ASGI has it."""

    def close_after(self, stall_timeout: float) -> None:
        """Close the connection after this answer, whose headers are sent already."""

    def abort(self) -> None:
        """Close the connection at once."""


def of_exchange(exchange: Exchange) -> dict[str, Exchange]:
    """A scope's extensions that give its application access to its exchange."""
    return {_EXCHANGE: exchange}


def exchange_of(scope: _Scope) -> Exchange | None:
    """A request's exchange; None on other servers."""
    exchange: Exchange | None = scope.get("extensions", {}).get(_EXCHANGE)
    return exchange


def take_body(scope: _Scope) -> bytes | None:
    """The body, if all of it is there and nothing of it was received; None: receive it."""
    exchange = exchange_of(scope)
    if exchange is None or exchange.more_body or exchange.disconnected:
        return None
    exchange.flow.resume_reading()  # or a client that leaves would not be noticed
    body, exchange.body = bytes(exchange.body), b""  # not held for as long as it runs
    return body


def chunk_writer(scope: _Scope) -> Callable[[bytes], bool] | None:
    """What writes bytes in the midst of a stream at once; None: the server has no such thing."""
    exchange = exchange_of(scope)
    return None if exchange is None else exchange.write_chunk


def on_disconnect(scope: _Scope, then: Callable[[], None] | None) -> bool:
    """Have ``then`` called once when the client disconnects; None: nothing any more.

    Returns:
        False if the server can't tell: receive, until ``http.disconnect`` comes.
    """
    exchange = exchange_of(scope)
    if exchange is None:
        return False
    exchange.on_disconnect = then
    if then is not None and exchange.disconnected:
        then()
    return True
