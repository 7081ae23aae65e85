"""Runs one generation: slot, backend, retry before the first token, release.

Rule: a backend's failure before its first event may be tried again elsewhere, never one that is
the client's own fault, and never after something was handed on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from reverie.errors import BackendError, BackendTimeout, Overloaded, ReverieError
from reverie.events import Event, Usage
from reverie.gateway.auth import ANONYMOUS, Caller
from reverie.gateway.pool import Lease, Pool
from reverie.gateway.record import Record
from reverie.log import fields
from reverie.request import GenerateRequest

logger = logging.getLogger("reverie.relay")

MAX_ATTEMPTS = 3


async def relay(
    pool: Pool, request: GenerateRequest, record: Record, caller: Caller = ANONYMOUS
) -> AsyncGenerator[list[Event], None]:
    """Yield the batches of one generation, from whichever backend can give it.

    The last batch ends with ``Finish`` and ``Usage``. Closing the iterator stops the engine.

    Args:
        caller: takes its turn among the keys that wait.

    Raises:
        ReverieError: as ``Pool.acquire`` and ``Backend.generate``.
    """
    tried: set[str] = set()
    tokens = pool.within_context(request.most_tokens())
    for attempt in range(1, MAX_ATTEMPTS + 1):
        lease = await pool.acquire(tokens, tried, key=caller.key_id, weight=caller.weight)
        with lease:
            record.position = max(record.position, lease.position)
            record.granted = record.granted or time.monotonic()
            record.backend = lease.backend.name
            started = False
            last: list[Event] = []
            try:
                async with aclosing(lease.backend.generate(request)) as batches:
                    async for batch in batches:
                        started = True
                        record.saw(batch)
                        if isinstance(batch[-1], Usage):
                            last = batch
                            break
                        yield batch
            except (BackendError, Overloaded) as error:
                if isinstance(error, BackendError):
                    pool.failed(lease.backend)
                tried = _next_exclusions(lease, tried, error)
                if started or attempt == MAX_ATTEMPTS or not _can_retry(pool, tried):
                    raise
                logger.warning(
                    "trying again",
                    extra=fields(
                        id=record.id,
                        model=pool.model,
                        failed=lease.backend.name,
                        error=error.code,
                        reason=getattr(error, "reason", None),
                    ),
                )
                continue
        yield last  # the slot is free by now, however slowly the client reads
        return


def _next_exclusions(lease: Lease, tried: set[str], error: ReverieError) -> set[str]:
    """Exclude the backend that failed, unless it is known to be coming back.

    One that was silent for too long is excluded in any case: a second wait would be as long.
    """
    if lease.backend.recovers and not isinstance(error, BackendTimeout):
        return tried
    return tried | {lease.backend.name}


def _can_retry(pool: Pool, tried: set[str]) -> bool:
    return any(backend.name not in tried for backend in pool.backends)
