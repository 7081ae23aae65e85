"""Who waits for a slot, and whose turn it is: weighted fair queueing, sans-IO.

Answers that were cut come first, then other retries, then newcomers. Within each rank, keys take
turns by self-clocked fair queueing (S. J. Golestani, "A Self-Clocked Fair Queueing Scheme for
Broadband Applications", INFOCOM 1994), where requests are the packets and tokens are the bits. When
a request becomes its key's first, its finish is set: the virtual time, plus its tokens divided by
the key's weight. The request with the earliest finish is next, and virtual time moves on to it.

Rule 1: a key saves nothing up by being idle, and its flood delays others by no more than its share.
While a large request waits, each other key gets as many tokens as it asks for, by weight, and no
more.

Rule 2: a request that leaves without being served isn't paid for.

Rule 3: requests that may go to the same backends share a lane. If the first of a lane can't be
served, it holds up its lane, and no other.

Rule 4: the room that the queue's bound leaves is for newcomers alone. Retries always find room:
they had their turn, and left the queue for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator, Set
from typing import Any, Generic, TypeVar

from reverie.gateway.scheduling.lease import SlotRequest

_TOKEN = 1 << 20
"""The virtual time of one token of a key of weight 1. Times are integers: they compare exactly."""


class Waiter:
    """One request that waits. The queue sets all but ``request``."""

    __slots__ = ("flow", "number", "request", "span")

    def __init__(self, request: SlotRequest) -> None:
        self.request = request
        self.flow: _Flow[Any] | None = None
        self.number = 0  # by arrival
        self.span = 0  # the virtual time that it takes

    def __lt__(self, other: Waiter) -> bool:
        return self.number < other.number


W = TypeVar("W", bound=Waiter)


class _Lane(Generic[W]):
    """All requests of one route. ``firsts``: each key's first, sorted by finish and arrival."""

    __slots__ = ("firsts", "flows", "length", "rank", "route")

    def __init__(self, route: SlotRequest) -> None:
        self.route = route
        self.rank = route.rank
        self.flows: dict[str, _Flow[W]] = {}
        self.firsts: list[tuple[int, W]] = []
        self.length = 0


class _Flow(Generic[W]):
    """The requests of one key in one lane, oldest first."""

    __slots__ = ("finish", "key", "lane", "span", "waiters", "weight")

    def __init__(self, lane: _Lane[W], key: str, weight: int) -> None:
        self.lane = lane
        self.key = key
        self.weight = weight
        self.waiters: OrderedDict[W, None] = OrderedDict()
        self.span = 0  # of all of them
        self.finish = 0  # of the first, in virtual time

    @property
    def first(self) -> W:
        return next(iter(self.waiters))

    @property
    def newest(self) -> W:
        return next(reversed(self.waiters))

    @property
    def turn_of_newest(self) -> tuple[int, W]:
        return self.finish - self.first.span + self.span, self.newest

    def set_weight(self, weight: int) -> None:
        self.weight = weight
        for waiter in self.waiters:
            waiter.span = _span(waiter.request, weight)
        self.span = sum(waiter.span for waiter in self.waiters)

    def served_until(self, turn: tuple[int, Waiter]) -> int:
        """How many are served up to and with a turn, which is no earlier than the first's."""
        count = len(self.waiters)
        if count == 1 or not turn < self.turn_of_newest:
            return count
        finish = self.finish - self.first.span
        for served, waiter in enumerate(self.waiters):
            finish += waiter.span
            if finish >= turn[0] and turn < (finish, waiter):
                return served
        return count


class Queue(Generic[W]):
    """All who wait.

    Unless it says otherwise, an operation takes time for each route, and next to none for keys and
    requests.
    """

    def __init__(self) -> None:
        self._lanes: dict[SlotRequest, _Lane[W]] = {}
        self._virtual_time = [0, 0, 0]  # by rank
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(lane.length for lane in self._lanes.values())

    def __iter__(self) -> Iterator[W]:
        """All who wait, in no particular order."""
        for lane in self._lanes.values():
            for flow in lane.flows.values():
                yield from flow.waiters

    def __contains__(self, waiter: W) -> bool:
        return waiter.flow is not None

    def on_route(self, route: SlotRequest) -> list[W]:
        """All who wait on a route, in no particular order."""
        return [waiter for flow in self._lanes[route].flows.values() for waiter in flow.waiters]

    def routes(self) -> Iterator[tuple[SlotRequest, int, W]]:
        """Each route, with how many wait on it and the first of them, by whose turn it is."""
        for lane in sorted(self._lanes.values(), key=lambda lane: (lane.rank, lane.firsts[0])):
            yield lane.route, lane.length, lane.firsts[0][1]

    def push(self, waiter: W) -> None:
        """Add a request behind its key's others. The newest weight holds for all of them.

        Raises:
            ValueError: the weight is below 1, or the request waits already.
        """
        request = waiter.request
        if request.weight < 1 or waiter.flow is not None:
            raise ValueError(f"Not a request for the queue: its weight is {request.weight}.")
        route = request.route
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = _Lane(route)
        flow = lane.flows.get(request.key)
        if flow is None:
            flow = lane.flows[request.key] = _Flow(lane, request.key, request.weight)
        elif flow.weight != request.weight:
            flow.set_weight(request.weight)
        self._arrivals += 1
        waiter.flow, waiter.number = flow, self._arrivals
        waiter.span = _span(request, flow.weight)
        flow.waiters[waiter] = None
        flow.span += waiter.span
        lane.length += 1
        if flow.first is waiter:
            self._line_up(flow)

    def first(self, held_up: Set[SlotRequest] = frozenset()) -> W | None:
        """Whose turn it is, without the routes that are held up; None if nobody else waits."""
        lanes = [lane for route, lane in self._lanes.items() if route not in held_up]
        if not lanes:
            return None
        return min((lane.rank, lane.firsts[0]) for lane in lanes)[1][1]

    def leads(self, waiter: W) -> bool:
        """True if it is the first of those who may go to the same backends.

        Raises:
            KeyError: it doesn't wait.
        """
        return _flow_of(waiter).lane.firsts[0][1] is waiter

    def serve(self, waiter: W) -> None:
        """Take out the request whose turn it is: its key pays for it.

        Raises:
            KeyError: it doesn't wait.
        """
        flow = _flow_of(waiter)
        rank = flow.lane.rank
        self._virtual_time[rank] = max(self._virtual_time[rank], flow.finish)
        self.remove(waiter)

    def remove(self, waiter: W) -> bool:
        """Take out a request that isn't served: its key doesn't pay.

        Returns:
            True if another leads now, or if nobody is left who may go to the same backends.

        Raises:
            KeyError: it doesn't wait.
        """
        flow = _flow_of(waiter)
        lane = flow.lane
        leader = lane.firsts[0][1]
        was_first = flow.first is waiter
        if was_first:
            del lane.firsts[bisect_left(lane.firsts, (flow.finish, waiter))]
        del flow.waiters[waiter]
        waiter.flow = None
        flow.span -= waiter.span
        lane.length -= 1
        if not flow.waiters:
            del lane.flows[flow.key]
            if not lane.flows:
                del self._lanes[lane.route]
        elif was_first:
            self._line_up(flow)
        return not lane.firsts or lane.firsts[0][1] is not leader

    def position(self, waiter: W) -> int:
        """The place of a request that is its key's newest: 1 is next.

        It holds if none comes or goes and no route is held up.

        Takes time for each key, and for each request ahead whose key also has one behind.

        Raises:
            KeyError: it doesn't wait.
        """
        flow = _flow_of(waiter)
        turn, rank = flow.turn_of_newest, flow.lane.rank
        position = sum(lane.length for lane in self._lanes.values() if lane.rank < rank)
        for lane in self._lanes.values():
            if lane.rank == rank:
                for _, first in lane.firsts[: bisect_right(lane.firsts, turn)]:
                    position += _flow_of(first).served_until(turn)
        return position

    # Newcomers, who share a bounded room -----------------------------------------------------

    def _newcomers(self) -> Iterator[_Lane[W]]:
        return (lane for lane in self._lanes.values() if not lane.route.had_its_turn)

    @property
    def newcomers(self) -> int:
        """How many wait for their first turn."""
        return sum(lane.length for lane in self._newcomers())

    def greediest(self, than: str) -> tuple[W, int] | None:
        """The newest newcomer of the key that has the most of them, by its weight, and how many.

        None if that is no more than the key ``than`` has, which waits, too. Takes time for each
        key.
        """
        loads: dict[str, float] = {}
        for lane in self._newcomers():
            for key, flow in lane.flows.items():
                loads[key] = loads.get(key, 0) + len(flow.waiters) / flow.weight
        most = max(loads, key=loads.__getitem__)
        if loads[most] <= loads[than]:
            return None
        flows = [lane.flows[most] for lane in self._newcomers() if most in lane.flows]
        return max(flow.newest for flow in flows), sum(len(flow.waiters) for flow in flows)

    def _line_up(self, flow: _Flow[W]) -> None:
        """Note when the first of a flow finishes."""
        first = flow.first
        flow.finish = self._virtual_time[flow.lane.rank] + first.span
        insort(flow.lane.firsts, (flow.finish, first))


def _span(request: SlotRequest, weight: int) -> int:
    return max(1, request.tokens) * _TOKEN // weight


def _flow_of(waiter: W) -> _Flow[W]:
    if waiter.flow is None:
        raise KeyError("It doesn't wait.")
    return waiter.flow
