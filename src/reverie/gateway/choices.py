"""Several generations for one request, side by side: the choices of its answer.

Rule 1: they share one record and one place in the ledger, and each has a slot of its own. The first
waits for its turn; the others follow once it has begun, when its prompt is in the engine's cache.

Rule 2: at most ``MOST_AT_ONCE`` run at a time, and one where the number of requests at once is
limited.

Rule 3: one that fails ends them all, since no answer has an error in the place of a choice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import TypeAlias

from reverie.events import Event, Usage
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.record import RequestRecord
from reverie.gateway.relay import relay
from reverie.gateway.scheduling.pool import Pool
from reverie.pending import Pending
from reverie.request import GenerateRequest

MOST_AT_ONCE = 4

_Batch: TypeAlias = tuple[int, list[Event]]


async def relay_choices(
    pool: Pool,
    requests: Sequence[GenerateRequest],
    record: RequestRecord,
    caller: Caller,
    *,
    at_once: int,
) -> AsyncGenerator[_Batch, None]:
    """Yield the batches of all generations as they come, each with its choice's number.

    Closing the iterator stops the engines.

    Raises:
        ReverieError: as ``relay``.
    """
    parts = [record.another("choice") for _ in requests]
    waiting: asyncio.Queue[_Batch | Exception] = asyncio.Queue(maxsize=len(requests))

    begun = asyncio.Event()
    slots = asyncio.Semaphore(at_once)

    async def run(index: int) -> None:
        if index:
            await begun.wait()
        try:
            async with slots:

                def send(batch: list[Event]) -> Pending:
                    begun.set()
                    if waiting.full():
                        return partial(waiting.put, (index, batch))
                    waiting.put_nowait((index, batch))
                    return None

                follows = index > 0
                await relay(pool, requests[index], parts[index], caller, send=send, follows=follows)
        except Exception as failure:
            await waiting.put(failure)

    tasks = [asyncio.create_task(run(index)) for index in range(len(requests))]
    open_ = len(tasks)
    try:
        while open_:
            got = await waiting.get()
            merge(record, parts, requests)
            if isinstance(got, Exception):
                raise got
            open_ -= isinstance(got[1][-1], Usage)
            yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        merge(record, parts, requests, ended=True)
        record.add_gaps(parts)


def total_usage(requests: Sequence[GenerateRequest], usages: Sequence[Usage]) -> Usage:
    """The usage of all choices; a prompt that several answer is counted once."""
    counting = [u for r, u in zip(requests, usages, strict=True) if r.counts_prompt]
    details: dict[str, int] = {}
    for usage in usages:
        for name, tokens in usage.completion_details.items():
            details[name] = details.get(name, 0) + tokens
    return Usage(
        sum(usage.prompt_tokens for usage in counting),
        sum(usage.completion_tokens for usage in usages),
        sum(usage.cached_tokens for usage in counting),
        estimated=any(usage.estimated for usage in usages),
        completion_details=details,
    )


def merge(
    record: RequestRecord,
    parts: Sequence[RequestRecord],
    requests: Sequence[GenerateRequest],
    *,
    ended: bool = False,
) -> None:
    """Bring a request's record up to date with those of its choices, whether or not all have begun.

    Args:
        ended: no more will come. Of several prompts, those count that were read by then.
    """
    counting = [part for part, one in zip(parts, requests, strict=True) if one.counts_prompt]
    record.pieces = sum(
        part.pieces if part.completion_tokens is None else part.completion_tokens for part in parts
    )
    record.failovers = sum(part.failovers for part in parts)
    record.retries = sum(part.retries for part in parts)
    record.position = max(part.position for part in parts)
    record.cut_for_good = any(part.cut_for_good for part in parts)
    record.backend = next((part.backend for part in parts if part.backend), None)
    record.granted = min((p.granted for p in parts if p.granted is not None), default=None)
    record.queue_timed_out = any(part.queue_timed_out for part in parts)
    record.queued = min((p.queued for p in parts if p.queued is not None), default=None)
    tokens_at = [part.first_token for part in parts if part.first_token is not None]
    record.first_token = min(tokens_at, default=None)
    record.cached_tokens = sum(part.cached_tokens for part in counting)
    record.reasoning_tokens = sum(part.reasoning_tokens for part in parts)
    record.finish_reasons = tuple(reason for part in parts for reason in part.finish_reasons)
    if all(part.prompt_tokens is not None for part in counting):
        known = record.prompt_tokens is not None
        record.prompt_tokens = sum(part.prompt_tokens or 0 for part in counting)
        if not known and record.on_prompt is not None:
            record.on_prompt()
    elif ended and record.pieces:
        record.prompt_tokens = sum(
            one.likely_prompt if part.prompt_tokens is None else part.prompt_tokens
            for part, one in zip(parts, requests, strict=True)
            if one.counts_prompt and (part.pieces or part.prompt_tokens is not None)
        )
    if all(part.completion_tokens is not None for part in parts):
        record.completion_tokens = sum(part.completion_tokens or 0 for part in parts)
        record.estimated = any(part.estimated for part in parts)
        record.outcome = "length" if any(part.outcome == "length" for part in parts) else "ok"
