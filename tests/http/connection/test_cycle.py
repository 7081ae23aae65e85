"""An answer as it leaves: in as few writes as can be, well-formed, or the connection ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from reverie.http.connection.cycle import Cycle

DATE = b"date: today\r\n"


class Transport(asyncio.Transport):
    """Keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))


class Connection:
    default_head = DATE

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = Transport()
        self.flow = FlowControl(self.transport)
        self.closed = False
        self.answered = 0

    def close_after_body(self) -> None:
        self.closed = True

    def close_after_answer(self, stall_timeout: float) -> None:
        raise AssertionError("the answer is whole")

    def on_response_complete(self) -> None:
        self.answered += 1


def begun(*, method: str = "GET", http_1_0: bool = False) -> tuple[Cycle, Connection]:
    connection = Connection()
    cycle = Cycle(
        connection,
        method=method,
        is_http_1_0=http_1_0,
        keep_alive=not http_1_0,
        expects_continue=False,
    )
    return cycle, connection


def head(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


LENGTH = (b"content-length", b"2")


async def test_head_and_body_leave_in_one_write() -> None:
    cycle, connection = begun()
    await cycle.send(head(LENGTH, (b"x-a", b"b")))
    await cycle.send(body(b"hi"))
    assert connection.transport.writes == [
        b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nx-a: b\r\n\r\nhi"
    ]
    assert connection.answered == 1
    assert not connection.closed


async def test_a_stream_that_has_nothing_to_say_yet_has_begun_nevertheless() -> None:
    cycle, connection = begun()
    await cycle.send(head())
    await asyncio.sleep(0)
    await cycle.send(body(b"one", more=True))
    await cycle.send(body(b"two"))
    first, *rest = connection.transport.writes
    assert first.endswith(b"transfer-encoding: chunked\r\n\r\n")
    assert rest == [b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"]


async def test_an_old_client_gets_a_stream_that_ends_with_its_connection() -> None:
    cycle, connection = begun(http_1_0=True)
    await cycle.send(head())
    await cycle.send(body(b"one", more=True))
    await cycle.send(body(b"two"))
    assert b"".join(connection.transport.writes).endswith(b"connection: close\r\n\r\nonetwo")
    assert connection.closed


async def test_head_has_no_body() -> None:
    cycle, connection = begun(method="HEAD")
    await cycle.send(head(LENGTH))
    await cycle.send(body(b"hi"))
    assert b"".join(connection.transport.writes).endswith(b"content-length: 2\r\n\r\n")


@pytest.mark.parametrize("value", [b"a\r\nx-more: b", b"a\nb", b"a\rb", b"a\0b"])
async def test_no_value_of_a_header_can_pose_as_another(value: bytes) -> None:
    cycle, connection = begun()
    with pytest.raises(RuntimeError):
        await cycle.send(head(LENGTH, (b"x-a", value)))
    assert not connection.transport.writes


@pytest.mark.parametrize("messages", [[], [head(LENGTH)], [head(LENGTH, (b"x-a", b"a\nb"))]])
async def test_an_answer_that_fails_before_it_leaves_is_an_error(
    messages: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        raise ValueError("no")

    cycle, connection = begun()
    await cycle.run(fail, {})
    [answer] = connection.transport.writes
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"ValueError" not in answer
    assert caplog.records[0].levelname == "ERROR"


@pytest.mark.parametrize("data", [b"a", b"abc"])
async def test_an_answer_of_another_length_ends_its_connection(data: bytes) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send(head(LENGTH))
        await send(body(data[:1], more=True))
        await send(body(data[1:]))

    cycle, connection = begun()
    await cycle.run(answer, {})
    assert connection.closed
    assert connection.answered == 0
