"""One request → frames, whether its answer has one choice, as nearly all have, or several."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import Protocol

from reverie.events import Delta, Finish, Usage
from reverie.gateway.accounts.reservation import Reservation
from reverie.gateway.choices import MOST_AT_ONCE, relay_choices, total_usage
from reverie.http.dialects.base import Encoder
from reverie.http.frames import Job, Write, collect_deltas, generate_one, kept_copy
from reverie.pending import done


class ChoicesEncoder(Encoder, Protocol):
    """An ``Encoder`` that can write several choices."""

    def choice(self, index: int, deltas: Sequence[Delta], finish: Finish | None) -> bytes:
        """A choice's chunks for deltas that arrived together, and for its end if that is there."""

    def close(self, usage: Usage) -> bytes:
        """The end of a stream whose choices have all ended."""

    def whole(self, choices: Sequence[tuple[Sequence[Delta], Finish]], usage: Usage) -> bytes:
        """The one JSON body of an answer that isn't streamed."""


def generate(
    job: Job, reservation: Reservation, write: Write, max_kept: int = 0
) -> Awaitable[None]:
    """Generate the answer. Cancelling this stops the engine.

    Args:
        max_kept: the size in bytes up to which an answer is kept for its claim.

    Raises:
        ReverieError: as ``relay`` and ``Reservation.settle``.
    """
    one_choice = not job.more
    return (generate_one if one_choice else _generate_all)(job, reservation, write, max_kept)


async def _generate_all(job: Job, reservation: Reservation, write: Write, max_kept: int) -> None:
    encoder: ChoicesEncoder = job.encoder  # type: ignore[assignment]
    kept = kept_copy(job, reservation, max_kept)
    said: list[list[Delta]] = [[] for _ in job.requests]
    ends: dict[int, tuple[Finish, Usage]] = {}
    job.model.deployment.load_for_request()
    limited = job.caller.limited or job.model.limits.concurrency is not None
    batches = relay_choices(
        job.model.pool,
        job.requests,
        job.record,
        job.caller,
        at_once=1 if limited else MOST_AT_ONCE,
    )
    async with aclosing(batches):
        async for index, batch in batches:
            finish, usage = collect_deltas(batch, said[index])
            if finish is not None and usage is not None:
                job.model.deployment.sizes.learn(job.requests[index], usage)
                ends[index] = finish, usage
            if job.request.stream:
                data = encoder.choice(index, said[index], finish)
                said[index].clear()
                if len(ends) < len(said) and data:
                    await done(write(data if kept is None else kept.add(data), False))
        usage = total_usage(job.requests, [ends[index][1] for index in range(len(said))])
        if job.request.stream:
            data += encoder.close(usage)
        else:
            choices = [(deltas, ends[index][0]) for index, deltas in enumerate(said)]
            data = encoder.whole(choices, usage)
        if kept is not None:
            data = kept.add(data)
        await reservation.settle(None if kept is None else kept.whole)
        await done(write(data, True))
