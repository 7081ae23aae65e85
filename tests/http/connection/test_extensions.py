"""What our protocol tells of a request beyond ASGI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reverie.http.connection.extensions import of_exchange, on_disconnect, take_body


class Flow:
    reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Exchange:
    on_disconnect: Callable[[], None] | None = None

    def __init__(self, body: bytes, *, more: bool = False, disconnected: bool = False) -> None:
        self.body = bytearray(body)
        self.more_body = more
        self.disconnected = disconnected

        self.flow = Flow()

    def write_chunk(self, data: bytes) -> bool:
        raise AssertionError("nothing is to be written")

    def close_after(self, stall_timeout: float) -> None:
        raise AssertionError("the connection stays")

    def abort(self) -> None:
        raise AssertionError("the connection stays")


def scope_of(exchange: Exchange) -> dict[str, Any]:
    return {"extensions": of_exchange(exchange)}


def test_a_body_that_is_there_is_taken_and_not_held() -> None:
    exchange = Exchange(b"{}")
    assert take_body(scope_of(exchange)) == b"{}"
    assert not exchange.body
    assert exchange.flow.reading


@pytest.mark.parametrize("how", [{"more": True}, {"disconnected": True}])
def test_a_body_that_is_not_whole_is_left(how: dict[str, bool]) -> None:
    exchange = Exchange(b"{", **how)
    assert take_body(scope_of(exchange)) is None
    assert exchange.body == b"{"


def test_other_servers_tell_nothing() -> None:
    assert take_body({}) is None
    assert on_disconnect({}, lambda: None) is False
