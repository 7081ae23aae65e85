"""Asks a server: a request goes out on a connection of the pool, its answer's moments come back.

Rule: the moment of a token is taken in ``data_received``, before anything else is done with it. No
task and no timer for a piece of an answer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from time import perf_counter
from typing import cast

from reverie.backends.client.address import Address
from reverie.backends.client.connecting import Connector
from reverie.backends.client.parser import MalformedResponse, ResponseParser
from reverie.load.answers import AnswerReader, Failure, Outcome

_PATH = "chat/completions"


class Client:
    """The connections to one server.

    Args:
        url: with or without a ``/v1`` at its end.
        headers: sent with each request.
        timeout: seconds for one request.

    Raises:
        ValueError: the URL or a header can't be used.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], timeout: float) -> None:
        address = Address.of(url.rstrip("/").removesuffix("/v1") + "/v1")
        fields = {
            "Host": address.authority,
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            **headers,
        }
        if not all(f"{name}{value}".isprintable() for name, value in fields.items()):
            raise ValueError("a header can't be sent: it isn't plain text")
        lines = [f"POST {address.target(_PATH)} HTTP/1.1", *map(": ".join, fields.items())]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()
        self._connector = Connector(address)
        self._timeout = timeout
        self._idle: list[_Connection] = []

    async def ask(self, body: bytes, *, stream: bool) -> Outcome:
        """Send a request, and read its answer. What fails is in the outcome."""
        reader = AnswerReader(perf_counter(), stream=stream)
        request = self._head + b"%d\r\n\r\n" % len(body) + body
        try:
            async with asyncio.timeout(self._timeout):
                while self._idle:
                    connection = self._idle.pop()
                    if (outcome := await self._on(connection, request, reader)) is not None:
                        return outcome  # else the server had closed it, and knows of no request
                connection = await self._connector.open(_Connection)
                outcome = await self._on(connection, request, reader)
                return outcome or reader.fail(Failure("the connection was closed unanswered"))
        except TimeoutError:
            return reader.fail(Failure(f"no whole answer in {self._timeout:g} s"))
        except (OSError, RuntimeError) as error:
            return reader.fail(_unreachable(error))

    def close(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            self._idle.pop().abort()

    async def _on(
        self, connection: _Connection, request: bytes, reader: AnswerReader
    ) -> Outcome | None:
        """Ask on this connection; None: it was closed before anything came."""
        try:
            outcome = await connection.ask(request, reader)
        except BaseException:
            connection.abort()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return outcome


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._parser = ResponseParser()
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._done: asyncio.Future[Outcome | None] | None = None
        self._touched = False  # a byte of the response has come

    @property
    def reusable(self) -> bool:
        return self._transport is not None and self._parser.reusable

    def ask(self, request: bytes, reader: AnswerReader) -> asyncio.Future[Outcome | None]:
        """Send; the future gets the outcome, or None if it was closed before anything came."""
        self._done = asyncio.get_running_loop().create_future()
        self._reader, self._touched = reader, False
        self._parser.begin()
        if self._transport is None:
            self._end(None)
        else:
            self._transport.write(request)
        return self._done

    def abort(self) -> None:
        self._reader = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        reader, parser = self._reader, self._parser
        if reader is None:
            self.abort()  # it spoke unasked
            return
        self._touched = True
        try:
            parser.feed(data)
        except MalformedResponse as error:
            self._end(reader.fail(Failure("the answer isn't HTTP", str(error))))
            self.abort()
            return
        if parser.body:
            reader.status = parser.status
            reader.feed(parser.body[0] if len(parser.body) == 1 else b"".join(parser.body), now)
            parser.body.clear()
        if parser.ended:
            reader.status = parser.status
            self._end(reader.end(now))

    def eof_received(self) -> None:  # returning None has the transport closed
        if self._reader is not None and self._parser.finish():
            self._reader.status = self._parser.status
            self._end(self._reader.end(perf_counter()))

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._reader is not None:
            failed = self._reader.fail(Failure("the connection broke")) if self._touched else None
            self._end(failed)

    def _end(self, outcome: Outcome | None) -> None:
        self._reader = None
        if self._done is not None and not self._done.done():
            self._done.set_result(outcome)


def _unreachable(error: OSError | RuntimeError) -> Failure:
    number = error.errno if isinstance(error, OSError) else None
    return Failure("can't connect", os.strerror(number) if number else str(error))
