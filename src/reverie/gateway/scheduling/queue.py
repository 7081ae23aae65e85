"""Those who wait for a slot, in lines: one line for all who may go to the same backends.

Within a line keys take turns by weight, which ``fair`` decides. Lines are served one after the
other: first those whose clients have a part of an answer, then others that were let down, then
newcomers; of several, the narrowest choice first.

Rule: there is always room for who was let down. It had its turn, and left the queue for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from reverie.gateway.scheduling.fair_queue import FairQueue
from reverie.gateway.scheduling.lease import Lease
from reverie.gateway.scheduling.slot_request import SlotRequest


class Waiter:
    """One request. ``granted`` gets its lease, or what ended its wait."""

    __slots__ = ("granted", "hopes_until", "number", "position", "slot_request")

    def __init__(self, slot_request: SlotRequest, number: int, hopes_until: float) -> None:
        self.slot_request = slot_request
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self.number = number  # in the order of arrival
        self.hopes_until = hopes_until  # on the pool's clock
        self.position = 0


class _Kind(NamedTuple):
    """What those in one line have in common."""

    resuming: bool
    excluded: frozenset[str]
    failed_on: frozenset[str]

    @property
    def rank(self) -> tuple[bool, bool, int]:
        return self.resuming, bool(self.failed_on), len(self.excluded)


class Line:
    """Those who may go to the same backends. ``like`` is what any of them wishes for, but for whose
    it is and how large.
    """

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.like = SlotRequest(
            excluded=kind.excluded, failed_on=kind.failed_on, resuming=kind.resuming
        )
        self.queue: FairQueue[Waiter] = FairQueue()


class Lines:
    """All who wait. No line is empty."""

    def __init__(self) -> None:
        self._lines: dict[_Kind, Line] = {}

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(len(line.queue) for line in self._lines.values())

    def __iter__(self) -> Iterator[Waiter]:
        for line in self._lines.values():
            yield from line.queue

    def resuming(self) -> Iterator[Waiter]:
        """Those whose clients have a part of an answer."""
        for line in self._lines.values():
            if line.kind.resuming:
                yield from line.queue

    def __contains__(self, waiter: Waiter) -> bool:
        line = self._lines.get(_kind_of(waiter))
        return line is not None and waiter in line.queue

    def in_order(self) -> list[Line]:
        """The lines, as they are served."""
        return sorted(self._lines.values(), key=lambda line: line.kind.rank, reverse=True)

    def push(self, waiter: Waiter) -> None:
        kind, slot_request = _kind_of(waiter), waiter.slot_request
        line = self._lines.setdefault(kind, Line(kind))
        line.queue.push(
            waiter, slot_request.key, slot_request.weight, cost=max(1, slot_request.tokens)
        )

    def remove(self, waiter: Waiter) -> None:
        """Take out one who isn't served.

        Raises:
            KeyError: it doesn't wait.
        """
        line = self._lines[_kind_of(waiter)]
        line.queue.remove(waiter)
        self.tidy(line)

    def tidy(self, line: Line) -> bool:
        """Forget a line that has become empty; gives whether it has."""
        if not line.queue:
            self._lines.pop(line.kind, None)
        return not line.queue

    def position(self, waiter: Waiter) -> int:
        """The place of one who waits: 1 is next."""
        kind = _kind_of(waiter)
        before = (line for line in self._lines.values() if line.kind.rank > kind.rank)
        return sum(len(line.queue) for line in before) + self._lines[kind].queue.position(waiter)

    # Newcomers, who share a bounded room -----------------------------------------------------

    def _newcomers(self) -> Iterator[FairQueue[Waiter]]:
        return (line.queue for line in self._lines.values() if not line.like.is_retry)

    @property
    def newcomers(self) -> int:
        """How many wait for their first turn."""
        return sum(map(len, self._newcomers()))

    def newcomers_of(self, key: str) -> int:
        return sum(queue.length_of(key) for queue in self._newcomers())

    def newest_of_greediest(self, than: str) -> Waiter | None:
        """The newest request of the key that holds the most of the room, by its weight; None if
        that is no more than what the key ``than``, which waits itself, holds.
        """
        loads: dict[str, float] = {}
        for queue in self._newcomers():
            for key, load in queue.loads():
                loads[key] = loads.get(key, 0) + load
        greediest = max(loads, key=loads.__getitem__)
        if loads[greediest] <= loads[than]:
            return None
        newest = (queue.newest_of(greediest) for queue in self._newcomers())
        return max(filter(None, newest), key=lambda waiter: waiter.number)


def _kind_of(waiter: Waiter) -> _Kind:
    slot_request = waiter.slot_request
    return _Kind(slot_request.resuming, slot_request.excluded, slot_request.failed_on)
