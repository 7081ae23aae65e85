"""Sharing out a backend's room: what workers may use, by what they report."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.workers.shares import Report, Room, Share, Shares


class Worker:
    """A worker as ``slots`` has it: a queue in order of arrival, and requests that run."""

    def __init__(self) -> None:
        self.share = Share(1, 0, 0, Room(), False)
        self.queue: deque[Room] = deque()
        self.running: list[Room] = []
        self.outbox: deque[Report] = deque()
        self._sent: Report | None = None

    @property
    def used(self) -> Room:
        return Room(sum(r.slots for r in self.running), sum(r.tokens for r in self.running))

    def work(self) -> None:
        """Start what fits, and report if that is due."""
        room = self.share.room
        while self.queue:
            need, used = self.queue[0], self.used
            if used.slots + need.slots > room.slots or used.tokens + need.tokens > room.tokens:
                break
            self.running.append(self.queue.popleft())
        if self.share.contended or self.queue:
            self.report()

    def report(self) -> None:
        need = self.queue[0] if self.queue else Room()
        told = Report(1, 0, self.share.number, self.used, len(self.queue), need)
        if told != self._sent:
            self._sent = told
            self.outbox.append(told)


class Cluster:
    """Workers and their parent, with messages under way between them."""

    def __init__(self, total: Room, count: int) -> None:
        self.total = total
        self.shares = Shares((1, 0), total)
        self.workers: dict[int, Worker] = {}
        self.inboxes: dict[int, deque[Share]] = {}
        for number in range(count):
            self.join(number)

    def join(self, number: int) -> None:
        self.workers[number] = Worker()
        self.inboxes[number] = deque()
        self._send(self.shares.join(number))

    def kill(self, number: int) -> None:
        del self.workers[number], self.inboxes[number]
        self._send(self.shares.leave(number))

    def _send(self, shares: dict[int, Share]) -> None:
        for number, share in shares.items():
            self.inboxes[number].append(share)

    def deliver_one(self, choice: random.Random) -> bool:
        """Deliver one message that is under way; False: there is none."""
        under_way = [("up", n) for n, worker in self.workers.items() if worker.outbox]
        under_way += [("down", n) for n, inbox in self.inboxes.items() if inbox]
        if not under_way:
            return False
        way, number = choice.choice(under_way)
        worker = self.workers[number]
        if way == "up":
            self._send(self.shares.report(number, worker.outbox.popleft()))
        else:
            worker.share = self.inboxes[number].popleft()
            worker.work()
            worker.report()
        self.check()
        return True

    def settle(self, choice: random.Random) -> None:
        for _ in range(10_000):
            if not self.deliver_one(choice):
                return
        pytest.fail("the messages never end")

    @property
    def used(self) -> Room:
        each = [worker.used for worker in self.workers.values()]
        return Room(sum(u.slots for u in each), sum(u.tokens for u in each))

    def check(self) -> None:
        used, total = self.used, self.total
        assert used.slots <= total.slots
        assert used.tokens <= total.tokens


def test_slots_are_spread_evenly_while_nobody_waits() -> None:
    cluster = Cluster(Room(8), 2)
    cluster.settle(random.Random(1))
    assert [worker.share.room for worker in cluster.workers.values()] == [
        Room(4),
        Room(4),
    ]


def test_an_idle_share_moves_to_the_worker_that_has_a_queue() -> None:
    cluster = Cluster(Room(8), 2)
    cluster.settle(random.Random(1))
    cluster.workers[0].queue.extend([Room(1)] * 8)
    cluster.workers[0].work()
    cluster.settle(random.Random(1))
    assert len(cluster.workers[0].running) == 8


def test_a_worker_that_has_more_than_its_part_gives_back_as_its_requests_end() -> None:
    cluster, choice = Cluster(Room(8), 2), random.Random(1)
    first, second = cluster.workers.values()
    first.queue.extend([Room(1)] * 40)
    first.work()
    cluster.settle(choice)
    second.queue.extend([Room(1)] * 40)
    second.work()
    cluster.settle(choice)
    assert (len(first.running), len(second.running)) == (8, 0)
    for _ in range(4):
        first.running.pop()
        first.work()
        cluster.settle(choice)
    assert (len(first.running), len(second.running)) == (4, 4)


def test_while_both_are_full_a_request_that_ends_and_the_next_cost_no_message() -> None:
    cluster, choice = Cluster(Room(8), 2), random.Random(1)
    for worker in cluster.workers.values():
        worker.queue.extend([Room(1)] * 4)
        worker.work()
    cluster.settle(choice)
    for worker in cluster.workers.values():
        worker.running.pop()
        worker.queue.append(Room(1))
        worker.work()
        assert not worker.outbox


def test_the_share_of_a_worker_that_dies_returns_to_the_others() -> None:
    cluster, choice = Cluster(Room(8), 2), random.Random(1)
    for worker in cluster.workers.values():
        worker.queue.extend([Room(1)] * 20)
        worker.work()
    cluster.settle(choice)
    cluster.kill(0)
    cluster.settle(choice)
    assert len(cluster.workers[1].running) == 8


def test_one_slot_goes_to_and_fro() -> None:
    cluster, choice = Cluster(Room(1), 2), random.Random(1)
    for worker in cluster.workers.values():
        worker.queue.extend([Room(1)] * 5)
        worker.work()
    served: list[int] = []
    cluster.settle(choice)
    while any(worker.running for worker in cluster.workers.values()):
        for number, worker in cluster.workers.items():
            if worker.running:
                worker.running.clear()
                worker.work()
                served.append(number)
        cluster.settle(choice)
    assert sorted(served) == [0] * 5 + [1] * 5
    assert all(len({*served[at : at + 3]}) == 2 for at in range(7)), served


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    cluster, choice = Cluster(Room(8, 1000), 2), random.Random(1)
    small, large = cluster.workers.values()
    small.queue.extend([Room(1, 200)] * 100)
    small.work()
    cluster.settle(choice)
    large.queue.append(Room(1, 900))
    large.work()
    for _ in range(10):
        cluster.settle(choice)
        if large.running:
            return
        small.running.pop(0)
        small.work()
    pytest.fail("it still waits")


def test_thousands_of_slots_are_shared_out_in_steps() -> None:
    cluster, choice = Cluster(Room(4_000), 2), random.Random(1)
    cluster.settle(choice)
    cluster.workers[0].queue.extend([Room(1)] * 3_000)
    cluster.workers[0].work()
    cluster.settle(choice)
    assert len(cluster.workers[0].running) == 3_000


SIZES = st.sampled_from([Room(1, 10), Room(1, 60), Room(1, 100), Room(5, 100)])


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("aaaeedddddk"), st.integers(0, 3), SIZES), max_size=60),
    st.randoms(use_true_random=False),
)
def test_shares_are_exact_and_nothing_idles_beside_a_queue(
    count: int, steps: list[tuple[str, int, Room]], choice: random.Random
) -> None:
    cluster = Cluster(Room(5, 100), count)
    for what, where, size in steps:
        number = sorted(cluster.workers)[where % len(cluster.workers)]
        worker = cluster.workers[number]
        if what == "a":
            worker.queue.append(size)
        elif what == "e" and worker.running:
            worker.running.pop(choice.randrange(len(worker.running)))
        elif what == "k":
            cluster.kill(number)
            cluster.join(max([number, *cluster.workers]) + 1)
            continue
        else:
            cluster.deliver_one(choice)
        worker.work()
        cluster.check()
    # All is served in the end, and at no settled moment could the next of all have run.
    while True:
        cluster.settle(choice)
        waiting = [worker for worker in cluster.workers.values() if worker.queue]
        if not waiting:
            break
        used = cluster.used
        free = Room(cluster.total.slots - used.slots, cluster.total.tokens - used.tokens)
        stuck = [
            w for w in waiting if w.queue[0].slots > free.slots or w.queue[0].tokens > free.tokens
        ]
        assert stuck, "what is idle would do for each that waits"
        busy = [worker for worker in cluster.workers.values() if worker.running]
        assert busy
        ended = choice.choice(busy)
        ended.running.pop()
        ended.work()
