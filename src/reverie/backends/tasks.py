"""Has one server do what isn't generation: ask it, read its answer, piece by piece."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from reverie.backends.decoding import tasks as decoding
from reverie.backends.encoding import tasks as encoding
from reverie.backends.transport import Response, Transport
from reverie.settings import BackendKind
from reverie.tasks import TaskRequest

_MAX_ERROR_BYTES = 64 * 1024
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of one piece: 64 vectors of 8,192 numbers have 12 MiB, a text of 10 MiB as many tokens 60."""
_LARGE = 256 * 1024
"""Bytes that take long enough to read to hold up other clients' tokens."""

R = TypeVar("R")


async def run(
    transport: Transport, request: TaskRequest[R], model: str, kind: BackendKind, timeout: float
) -> R:
    """Ask, and give the whole result. To cancel this stops the engine's work.

    Args:
        model: the model's name on that server.
        timeout: seconds for each piece of the request.

    Raises:
        BackendError, BackendTimeout: the server failed.
        ClientError: the engine refuses this request.
        ModelLoading, Overloaded: it can't take the request now.
    """
    clock = asyncio.get_running_loop().time
    parts: list[Any] = []
    for piece in encoding.pieces(request, kind):
        deadline = clock() + timeout
        ask = encoding.question
        is_large = sum(piece.bounds) > _LARGE
        path, body = (
            await asyncio.to_thread(ask, piece, model, kind)
            if is_large
            else ask(piece, model, kind)
        )
        async with transport.post(path, body, deadline) as response:
            if response.status != 200:
                error = await response.read_all(_MAX_ERROR_BYTES, deadline)
                raise decoding.task_refusal(response.status, response.headers, error, piece)
            answer = await _read_whole(response, deadline)
        large = len(answer) > _LARGE
        read = decoding.result
        parts.append(await asyncio.to_thread(read, answer, piece) if large else read(answer, piece))
    result: R = decoding.joined(parts)
    return result


async def _read_whole(response: Response, deadline: float) -> bytes:
    """The whole body.

    Raises:
        BackendError: it broke off, or is too large.
    """
    parts = bytearray()
    while part := await response.read(deadline):
        parts += part
        if len(parts) > _MAX_ANSWER_BYTES:
            raise decoding.unusable("it is too large")
    return bytes(parts)
