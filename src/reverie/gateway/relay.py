"""Runs one generation: slot, backend, another backend if that one fails, release.

Rule 1: a backend's failure before its first event may be retried elsewhere; a failure that is the
client's own fault never is.

Rule 2: a failure after text was sent is mended by continuing from there elsewhere, if the answer
can be resumed (``continuation``). Nothing is ever sent twice.

Rule 3: what two backends answer to one request alike, before its first token, is no failure of
either.

Rule 4: the slot on a backend that failed is released before another slot is waited for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from reverie.errors import BackendError, ClientError, Overloaded, ReverieError
from reverie.events import Event, Usage
from reverie.gateway.accounts.authentication import ANONYMOUS, Caller
from reverie.gateway.attempts import Attempts
from reverie.gateway.continuation import Continuation
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.scheduling.routing import affinity_of
from reverie.request import GenerateRequest


async def relay(
    pool: Pool,
    request: GenerateRequest,
    record: RequestRecord,
    caller: Caller = ANONYMOUS,
    *,
    send: Callable[[list[Event]], Awaitable[None]],
    follows: bool = False,
) -> None:
    """Send on the batches of one generation, from whichever backends can give it.

    The last batch ends with ``Finish`` and ``Usage``. Cancelling this stops the engine.

    Args:
        caller: whose turn it is taken for, among the keys that wait.
        send: takes each batch. Before the last it raises nothing that a backend could have raised.
        follows: as in ``SlotRequest``.

    Raises:
        ReverieError: as ``Pool.acquire`` and ``Backend.generate``.
    """
    answer = Continuation(request)
    slot_request = SlotRequest(
        tokens=pool.within_context(request.size),
        key=caller.key_id,
        weight=caller.weight,
        affinity=affinity_of(request) if len(pool.backends) > 1 else None,
        follows=follows,
    )
    attempts = Attempts(pool, answer, record, slot_request)
    while True:
        try:
            lease = await pool.acquire(attempts.slot_request)
        except ReverieError as error:
            raise attempts.unavailable(error) from None
        with lease:
            attempts.begin(lease)
            client_blocked = 0.0
            last: list[Event] = []
            try:
                async with aclosing(lease.backend.generate(answer.request)) as batches:
                    async for batch in batches:
                        lease.on_batch()
                        events = answer.accept(batch)
                        if answer.prompt is not None:
                            attempts.size_known(lease, answer.prompt.tokens)
                        if not events:
                            continue
                        attempts.on_batch()
                        record.saw(events)
                        if isinstance(events[-1], Usage):
                            last = events
                            lease.succeeded(attempts.new_tokens, client_blocked)
                            break
                        sent_at = pool.clock()
                        await send(events)
                        client_blocked += pool.clock() - sent_at
            except (BackendError, ClientError, Overloaded) as error:
                attempts.failed(lease, error)
                if not answer.reached_max_tokens:
                    continue
                last = answer.end()
                record.saw(last)
        await send(last)  # the slot is free by now, however slowly the client reads
        return
