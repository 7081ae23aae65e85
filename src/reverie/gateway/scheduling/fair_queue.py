"""Whose turn it is among keys that wait: deficit round-robin, sans-IO.

M. Shreedhar and G. Varghese, "Efficient Fair Queuing using Deficit Round Robin", SIGCOMM 1995.
Keys with waiting items stand in a ring. A visit adds ``quantum × weight`` to a key's deficit, and
serves its items, oldest first, as long as the deficit covers their cost. A key with nothing left
leaves the ring, and its deficit is forgotten: nobody saves up by being idle.

Rule: visits that serve nothing are counted, not made. The paper wants a quantum as large as the
largest cost, so that each visit serves something, and pays for it with bursts. Here a heap holds
the round in which each key's first item is covered, so the quantum may be as small as one unit.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_GONE = -1
"""The ``due`` of a key that left the ring: it matches no entry of the heap."""


class _Lane(Generic[T]):
    """One key in the ring. ``deficit`` is as it was after its visit in round ``round``."""

    __slots__ = ("deficit", "due", "items", "key", "place", "round", "total", "weight")

    def __init__(self, key: str, weight: int, place: int, round: int) -> None:
        self.key = key
        self.weight = weight
        self.place = place  # in the ring: where each round comes to it
        self.round = round
        self.deficit = 0
        self.due = _GONE  # the round in which its first item is covered
        self.items: OrderedDict[T, int] = OrderedDict()  # each with its cost
        self.total = 0  # of all their costs

    @property
    def first(self) -> T:
        return next(iter(self.items))


class FairQueue(Generic[T]):
    """Items of several keys, handed out in turns that share their cost by the keys' weights.

    An operation takes logarithmic time in the number of keys, unless it says otherwise.

    Args:
        quantum: what one visit is worth to a key of weight 1, in units of cost. The smaller, the
            finer the keys' items are interleaved.
    """

    def __init__(self, quantum: int = 1) -> None:
        self._quantum = quantum
        self._lanes: dict[str, _Lane[T]] = {}
        self._lane_of: dict[T, _Lane[T]] = {}
        self._heap: list[tuple[int, int, _Lane[T]]] = []  # some entries are out of date
        self._places = 0
        self._now = (0, 0)  # round and place of the latest visit that served something

    def __len__(self) -> int:
        return len(self._lane_of)

    def __contains__(self, item: T) -> bool:
        return item in self._lane_of

    def __iter__(self) -> Iterator[T]:
        """All items, in no order that means anything."""
        return iter(self._lane_of)

    def length_of(self, key: str) -> int:
        """How many items of a key wait."""
        lane = self._lanes.get(key)
        return 0 if lane is None else len(lane.items)

    def newest_of(self, key: str) -> T | None:
        """The item of a key that came last; None if none waits."""
        lane = self._lanes.get(key)
        return None if lane is None else next(reversed(lane.items))

    def loads(self) -> Iterator[tuple[str, float]]:
        """Each key that waits, and its items by its weight. Takes time for each key."""
        for lane in self._lanes.values():
            yield lane.key, len(lane.items) / lane.weight

    def push(self, item: T, key: str, weight: int, cost: int) -> None:
        """Add an item behind its key's others. The newest weight holds for all of them.

        Raises:
            ValueError: weight or cost is below 1, or the item waits already.
        """
        if weight < 1 or cost < 1 or item in self._lane_of:
            raise ValueError(f"Not an item for a queue: {weight=}, {cost=}.")
        lane = self._lanes.get(key)
        if lane is None:
            # At the ring's end, to be visited from the next round on. In this round it could
            # be served, leave and come back without end, and the others would never be visited.
            self._places += 1
            lane = self._lanes[key] = _Lane(key, weight, self._places, self._now[0])
        changed = not lane.items or weight != lane.weight
        if weight != lane.weight:
            self._settle(lane)
            lane.weight = weight
        lane.items[item] = cost
        lane.total += cost
        self._lane_of[item] = lane
        if changed:
            self._schedule(lane)

    def peek(self) -> T | None:
        """The item that is served next; None if none waits."""
        lane = self._next()
        return None if lane is None else lane.first

    def pop(self) -> T:
        """Serve the next item: its key pays for it.

        Raises:
            IndexError: no item waits.
        """
        lane = self._next()
        if lane is None:
            raise IndexError("No item waits.")
        heapq.heappop(self._heap)
        self._now = max(self._now, (lane.due, lane.place))
        item = lane.first
        lane.deficit += self._worth(lane, lane.due - lane.round) - lane.items[item]
        lane.round = lane.due
        self._take(lane, item)
        if lane.items:
            self._schedule(lane)
        return item

    def remove(self, item: T) -> None:
        """Take out an item that is no longer wanted: its key doesn't pay.

        Raises:
            KeyError: it doesn't wait.
        """
        lane = self._lane_of[item]
        was_first = lane.first == item
        self._take(lane, item)
        if was_first and lane.items:
            # What was saved for a dear item isn't spent on a burst of cheap ones: the next visit
            # serves the one that is first now, at the earliest.
            self._settle(lane)
            enough = max(0, lane.items[lane.first] - self._worth(lane, 1))
            lane.deficit = min(lane.deficit, enough)
            self._schedule(lane)

    def position(self, item: T) -> int:
        """How many are served until this one is, itself included, if none comes or goes.

        Takes time for each key, and for each item ahead that isn't its key's last. For the
        newest item of a key that is little more than the former.

        Raises:
            KeyError: it doesn't wait.
        """
        lane = self._lane_of[item]
        position, cost = len(lane.items), lane.total
        for later in reversed(lane.items):
            if later == item:
                break
            position -= 1
            cost -= lane.items[later]
        due = self._covered(lane, cost)
        for other in self._lanes.values():
            visits = due - other.round - (other.place > lane.place)
            if other is lane or visits < 0:
                continue
            budget = other.deficit + self._quantum * visits * other.weight
            position += len(other.items) if other.total <= budget else _afforded(other, budget)
        return position

    def _covered(self, lane: _Lane[T], cost: int) -> int:
        """The round in which a key's deficit covers so much."""
        missing = max(0, cost - lane.deficit)
        return lane.round - (-missing // self._worth(lane, 1))

    def _worth(self, lane: _Lane[T], visits: int) -> int:
        return visits * self._quantum * lane.weight

    def _settle(self, lane: _Lane[T]) -> None:
        """Bring a key's deficit up to its latest visit."""
        round, place = self._now
        latest = round if lane.place <= place else round - 1
        if latest > lane.round:
            lane.deficit += self._worth(lane, latest - lane.round)
            lane.round = latest

    def _schedule(self, lane: _Lane[T]) -> None:
        """Note when the first item of a key is served."""
        lane.due = self._covered(lane, lane.items[lane.first])
        heapq.heappush(self._heap, (lane.due, lane.place, lane))
        if len(self._heap) > 2 * len(self._lanes) + 16:  # mostly entries that are out of date
            self._heap = [(lane.due, lane.place, lane) for lane in self._lanes.values()]
            heapq.heapify(self._heap)

    def _next(self) -> _Lane[T] | None:
        while self._heap:
            due, _, lane = self._heap[0]
            if lane.due == due:
                return lane
            heapq.heappop(self._heap)
        return None

    def _take(self, lane: _Lane[T], item: T) -> None:
        del self._lane_of[item]
        lane.total -= lane.items.pop(item)
        if not lane.items:
            lane.due = _GONE
            del self._lanes[lane.key]


def _afforded(lane: _Lane[T], budget: int) -> int:
    """How many of a key's items, oldest first, cost no more than so much together."""
    afforded = 0
    for cost in lane.items.values():
        budget -= cost
        if budget < 0:
            break
        afforded += 1
    return afforded
