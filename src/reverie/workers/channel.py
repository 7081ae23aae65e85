"""The control channel between the parent and one worker: messages over a Unix socket pair.

Each message is its length in four bytes and a MessagePack array. What is told is handled in the
order in which it came, in the event loop; what is asked is answered as soon as its answer is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeAlias

import msgspec

from reverie import background
from reverie.gateway.siblings import Answer

Tell: TypeAlias = Callable[[bytes], None]

_LENGTH_BYTES = 4


class ChannelClosed(Exception):
    """The other side has gone, or could not answer."""


class _Message(msgspec.Struct, array_like=True):
    kind: Literal["tell", "ask", "answer", "failure"]
    number: int
    """Of the question, which its answer repeats."""
    name: str
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Message).decode


class Channel:
    """One end of it.

    Args:
        tells: what to do about each kind of message that wants no answer.
        answers: what answers each kind of question.
    """

    def __init__(self, tells: Mapping[str, Tell], answers: Mapping[str, Answer]) -> None:
        self._tells = tells
        self._answers = answers
        self._watch = background.Watch("control channel")
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, connection: socket.socket, connected: asyncio.Event) -> None:
        """Handle what comes until the other side closes, or ``close`` is called.

        Args:
            connected: set once messages can be sent.
        """
        reader, self._writer = await asyncio.open_unix_connection(sock=connection)
        connected.set()
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
                    self._handle(_decode(await reader.readexactly(length)))
        finally:
            self.close()

    def close(self) -> None:
        """End it, and whatever waits for an answer. Idempotent."""
        self._watch.end()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ChannelClosed("The process that was asked has ended."))
                answer.exception()  # seen, also if nobody waits
        for task in self._answering:
            task.cancel()

    def tell(self, name: str, body: bytes = b"") -> None:
        """Send a message that wants no answer. Nothing happens once the channel is closed."""
        self._send(_Message("tell", 0, name, body))

    async def ask(self, name: str, body: bytes = b"", *, timeout: float | None = None) -> bytes:
        """Send a question, and wait for its answer.

        Raises:
            ChannelClosed: the other side ended first, or failed to answer.
            TimeoutError
        """
        if self._writer is None:
            raise ChannelClosed("The process that was asked has ended.")
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send(_Message("ask", number, name, body))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            del self._asked[number]

    def _send(self, message: _Message) -> None:
        if self._writer is not None:
            data = _encode(message)
            self._writer.write(len(data).to_bytes(_LENGTH_BYTES) + data)

    def _handle(self, message: _Message) -> None:
        if message.kind == "tell":
            with self._watch.step():
                self._tells[message.name](message.body)
        elif message.kind == "ask":
            task = background.once(f"answer to {message.name}", partial(self._answer, message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif (asked := self._asked.get(message.number)) is not None and not asked.done():
            if message.kind == "answer":
                asked.set_result(message.body)
            else:
                asked.set_exception(ChannelClosed(message.body.decode()))

    async def _answer(self, message: _Message) -> None:
        try:
            body = await self._answers[message.name](message.body)
        except Exception as failure:
            reason = f"{message.name}: {type(failure).__name__}: {failure}"
            self._send(_Message("failure", message.number, message.name, reason.encode()))
            raise
        self._send(_Message("answer", message.number, message.name, body))
