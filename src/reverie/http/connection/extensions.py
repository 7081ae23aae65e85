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

    body: bytearray
    """What has come of the body, and wasn't received."""
    more_body: bool
    disconnected: bool
    on_disconnect: Callable[[], None] | None
    write_chunk: Callable[[bytes], bool] | None
    """Writes bytes in the midst of a stream at once; False: they are to be sent as ASGI has it."""

    @property
    def flow(self) -> Flow:
        """The connection's."""


def add_to(extensions: dict[str, Any], exchange: Exchange) -> None:
    """Give a request's application access to its exchange."""
    extensions[_EXCHANGE] = exchange


def remove_from(extensions: dict[str, Any]) -> None:
    """Take the access away. An exchange that is over would otherwise refer to itself."""
    extensions.pop(_EXCHANGE, None)


def take_body(scope: _Scope) -> bytes | None:
    """The body, if all of it is there and nothing of it was received; None: receive it."""
    exchange: Exchange | None = scope.get("extensions", {}).get(_EXCHANGE)
    if exchange is None or exchange.more_body or exchange.disconnected:
        return None
    exchange.flow.resume_reading()  # or a client that leaves would not be noticed
    body, exchange.body = bytes(exchange.body), bytearray()  # not held for as long as it runs
    return body


def chunk_writer(scope: _Scope) -> Callable[[bytes], bool] | None:
    """What writes bytes in the midst of a stream at once; None: the server has no such thing."""
    exchange: Exchange | None = scope.get("extensions", {}).get(_EXCHANGE)
    return None if exchange is None else exchange.write_chunk


def on_disconnect(scope: _Scope, then: Callable[[], None] | None) -> bool:
    """Have ``then`` called once when the client disconnects; None: nothing any more.

    Returns:
        False if the server can't tell: receive, until ``http.disconnect`` comes.
    """
    exchange: Exchange | None = scope.get("extensions", {}).get(_EXCHANGE)
    if exchange is None:
        return False
    exchange.on_disconnect = then
    if then is not None and exchange.disconnected:
        then()
    return True
