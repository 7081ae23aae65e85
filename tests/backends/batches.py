"""The batches of a generation, for whoever takes them one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from reverie.backends.base import Backend
from reverie.events import Event
from reverie.pending import Pending
from reverie.request import GenerateRequest


async def batches_of(
    backend: Backend, request: GenerateRequest
) -> AsyncGenerator[list[Event], None]:
    """The batches of one generation. No more are taken before the next one is asked for."""
    taken: asyncio.Queue[list[Event] | Exception | None] = asyncio.Queue()
    asked = asyncio.Semaphore(0)

    def take(batch: list[Event]) -> Pending:
        taken.put_nowait(batch)
        return asked.acquire

    async def run() -> None:
        try:
            await backend.generate(request, take)
        except Exception as error:
            taken.put_nowait(error)
        else:
            taken.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (got := await taken.get()) is not None:
            if isinstance(got, Exception):
                raise got
            yield got
            asked.release()
    finally:
        task.cancel()
        await asyncio.wait({task})
