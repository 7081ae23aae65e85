"""How a backend's slots, and its room for tokens, are shared out among workers. Sans-IO.

Rule 1: what workers hold together never exceeds what the backend has. A share is lowered first;
what the worker gives back is known once it has confirmed the lower share, and only that is given to
another.

Rule 2: while nobody waits, shares stay as they are, and nothing is reported. While one waits, or
uses more than its share, all report each change, and what is idle moves.

Rule 3: while one waits, each worker is to have as much as the others, as far as it needs it: what
runs counts first, then what waits. A worker that has more gives back as its requests end.

Rule 4: the first request of the worker that runs the fewest is next, by turns if several do.
If it doesn't fit yet, room is kept for it, and nothing is given out past it: a large request would
never find room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct


class Room(Struct, frozen=True, array_like=True):
    """What a backend has, or a worker may use of it. ``tokens`` is 0 if they aren't bounded."""

    slots: int = 0
    tokens: int = 0


class Share(Struct, frozen=True, array_like=True):
    """What the parent lets a worker use of a backend."""

    deployment: int
    backend: int
    number: int
    """Counts up with each share, so that a report tells which one it is about."""
    room: Room
    contended: bool
    """True while a worker waits, or has more than its share: then each change is reported."""


class Report(Struct, frozen=True, array_like=True):
    """What a worker uses of a backend, and what it waits for."""

    deployment: int
    backend: int
    number: int
    """Of the latest share that it has."""
    used: Room
    waiting: int = 0
    next: Room = Room()
    """What the first of those who wait needs."""


class _Worker:
    """What is known of one worker."""

    def __init__(self) -> None:
        self.share = Room()
        self.held = Room()
        """What it may be using: its share, or more until it has confirmed a lower one."""
        self.number = 0
        self.contended = False
        self.used = Room()
        self.waiting = 0
        self.next = Room()
        self.turn = 0
        """Counts up over all workers, whenever one has got room for its first request."""

    @property
    def has_room_for_next(self) -> bool:
        return _covers(self.share, _plus(self.used, self.next))

    def needs(self, step: int, waiting: int) -> Iterator[Room]:
        """Room for each request that runs, and for so many that wait: ``step`` at once."""
        slots, tokens = self.used.slots, self.used.tokens
        while slots:
            some = min(step, slots)
            part = tokens * some // slots
            yield Room(some, part)
            slots, tokens = slots - some, tokens - part
        if tokens:
            yield Room(0, tokens)
        while waiting:
            some = min(step, waiting) if self.next.slots == 1 else 1
            yield Room(self.next.slots * some, self.next.tokens * some)
            waiting -= some


class Shares:
    """One backend's room, and the workers that use it.

    Each method that changes something gives the new shares, to be sent to their workers.

    Args:
        key: the numbers of the deployment and of the backend.
        total: what the backend has.
    """

    def __init__(self, key: tuple[int, int], total: Room) -> None:
        self._key = key
        self._total = total
        self._workers: dict[int, _Worker] = {}
        self._turns = 0

    @property
    def held(self) -> Room:
        """What all workers may be using."""
        return _sum(worker.held for worker in self._workers.values())

    @property
    def in_use(self) -> bool:
        """True while any worker may use it."""
        return bool(self._workers)

    def set_total(self, total: Room) -> dict[int, Share]:
        """Note what the backend has, where that was not known before."""
        if total == self._total:
            return {}
        self._total = total
        return self._share_out()

    def join(self, worker: int) -> dict[int, Share]:
        """Add a worker."""
        self._workers[worker] = _Worker()
        return self._share_out(anew=True)

    def leave(self, worker: int) -> dict[int, Share]:
        """Remove a worker, whose share returns to the others."""
        self._workers.pop(worker, None)
        return self._share_out()

    def report(self, worker: int, report: Report) -> dict[int, Share]:
        """Note what a worker uses and waits for."""
        known = self._workers.get(worker)
        if known is None:  # it has left
            return {}
        known.used, known.waiting, known.next = report.used, report.waiting, report.next
        if report.number == known.number:
            known.held = _most(known.share, known.used)
        return self._share_out()

    def _share_out(self, *, anew: bool = False) -> dict[int, Share]:
        contended = any(worker.waiting for worker in self._workers.values())
        if not (contended or anew or self._is_unsettled):
            return {}
        first = self._first()
        wanted = self._wanted(first)
        # So it is told at once when what a worker gives back has become free.
        contended = contended or any(
            not _covers(wanted[name], worker.held) for name, worker in self._workers.items()
        )
        changed: dict[int, Share] = {}
        for name, worker in self._workers.items():
            if not _covers(wanted[name], worker.share):
                self._change(name, _least(wanted[name], worker.share), contended, changed)
        # What was lowered isn't free until its worker has confirmed it.
        free = _minus(self._total, self.held)
        for name, worker in self._workers.items():
            more = _least(free, _minus(wanted[name], worker.held))
            free = _minus(free, more)
            room = _least(wanted[name], _plus(worker.held, more))
            if room != worker.share or contended != worker.contended:
                worker.held = _most(worker.held, room)
                self._change(name, room, contended, changed)
        if first is not None and self._workers[first].has_room_for_next:
            self._turns += 1
            self._workers[first].turn = self._turns
        return changed

    @property
    def _is_unsettled(self) -> bool:
        """True while there is something to give out, or a worker still reports each change."""
        free = _minus(self._total, self.held)
        telling = any(worker.contended for worker in self._workers.values())
        return telling or free.slots > 0 or free.tokens > 0

    def _change(self, name: int, room: Room, contended: bool, changed: dict[int, Share]) -> None:
        worker = self._workers[name]
        worker.share, worker.contended = room, contended
        worker.number += 1
        changed[name] = Share(*self._key, worker.number, room, contended)

    def _first(self) -> int | None:
        """The worker whose request is next; None: nobody waits."""

        def rank(name: int) -> tuple[int, int]:
            return self._workers[name].used.slots, self._workers[name].turn

        return min(
            (n for n, worker in self._workers.items() if worker.waiting), key=rank, default=None
        )

    def _wanted(self, first: int | None) -> dict[int, Room]:
        """What each worker should have, all of them together no more than there is.

        Args:
            first: whose request comes before all others.
        """
        wanted = {name: Room() for name in self._workers}
        waiting = {name: worker.waiting for name, worker in self._workers.items()}
        free = self._total
        if first is not None:
            waiting[first] -= 1
            wanted[first] = _least(self._workers[first].next, free)
            free = _minus(free, wanted[first])
        needs = {
            name: worker.needs(self._step, waiting[name]) for name, worker in self._workers.items()
        }
        while needs:
            name = min(needs, key=lambda one: (wanted[one].slots, one))
            need = next(needs[name], None)
            if need is None:
                del needs[name]
                continue
            if not _covers(free, need):
                if self._step > 1:  # some of so many at once
                    wanted[name] = _plus(wanted[name], Room(min(need.slots, free.slots)))
                return wanted
            wanted[name] = _plus(wanted[name], need)
            free = _minus(free, need)
        return self._spread(wanted, free)

    @property
    def _step(self) -> int:
        """Slots that are given out at once, so that thousands take no longer than a few."""
        return 1 if self._total.tokens else max(1, self._total.slots // 256)

    def _spread(self, wanted: dict[int, Room], free: Room) -> dict[int, Room]:
        """Spread what nobody waits for, so that all have as much as there is evenly."""
        names = sorted(wanted, key=lambda name: (wanted[name].slots, name))
        slots = _levels([wanted[name].slots for name in names], max(0, free.slots))
        tokens = _levels([wanted[name].tokens for name in names], max(0, free.tokens))
        return {name: Room(*both) for name, *both in zip(names, slots, tokens, strict=True)}


def _levels(amounts: list[int], more: int) -> list[int]:
    """The amounts with ``more`` poured over them, the lowest first, as water would be."""
    levels = list(amounts)
    order = sorted(range(len(levels)), key=lambda index: levels[index])
    for count in range(1, len(order) + 1):
        above = levels[order[count]] if count < len(order) else None
        lowest = levels[order[0]]
        room = more if above is None else min(more, (above - lowest) * count)
        each, rest = divmod(room, count)
        for position, index in enumerate(order[:count]):
            levels[index] += each + (position < rest)
        more -= room
        if not more:
            break
    return levels


def _sum(rooms: Iterable[Room]) -> Room:
    total = Room()
    for room in rooms:
        total = _plus(total, room)
    return total


def _plus(one: Room, other: Room) -> Room:
    return Room(one.slots + other.slots, one.tokens + other.tokens)


def _minus(one: Room, other: Room) -> Room:
    """What is left, which is never less than nothing."""
    return Room(max(0, one.slots - other.slots), max(0, one.tokens - other.tokens))


def _most(one: Room, other: Room) -> Room:
    return Room(max(one.slots, other.slots), max(one.tokens, other.tokens))


def _least(one: Room, other: Room) -> Room:
    return Room(min(one.slots, other.slots), min(one.tokens, other.tokens))


def _covers(one: Room, other: Room) -> bool:
    return one.slots >= other.slots and one.tokens >= other.tokens
