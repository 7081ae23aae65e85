"""Turns are those of deficit round-robin, and keys share by weight whatever they send."""

from __future__ import annotations

from collections import defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.gateway.scheduling.fair_queue import FairQueue, T

KEYS = ("a", "b", "c", "d")

costs = st.integers(1, 50)
weights = st.integers(1, 4)
quanta = st.sampled_from([1, 7, 60])
names = st.sampled_from(["push"] * 4 + ["pop"] * 3 + ["remove"])
operations = st.lists(
    st.tuples(names, st.sampled_from(KEYS), weights, costs), min_size=20, max_size=100
)
often = settings(max_examples=300)


class Ring:
    """The algorithm as the paper has it: each visit is made, also those that serve nothing."""

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.keys: list[str] = []  # in the ring's order
        self.items: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.weight: dict[str, int] = {}
        self.deficit: dict[str, int] = {}
        self.to_visit: list[str] = []  # in this round; those who join now come in the next
        self.visited: str | None = None

    def push(self, item: int, key: str, weight: int, cost: int) -> None:
        self.weight[key] = weight
        if key not in self.keys:
            self.keys.append(key)
            self.deficit[key] = 0
        self.items[key].append((item, cost))

    def pop(self) -> int:
        while True:
            key = self.visited
            if key is not None and self.items[key][0][1] <= self.deficit[key]:
                item, cost = self.items[key].pop(0)
                self.deficit[key] -= cost
                self.leave_if_empty(key)
                return item
            if not self.to_visit:
                self.to_visit = list(self.keys)
            self.visited = self.to_visit.pop(0)
            self.deficit[self.visited] += self.quantum * self.weight[self.visited]

    def remove(self, item: int) -> None:
        key = next(key for key in self.keys if item in dict(self.items[key]))
        was_first = self.items[key][0][0] == item
        self.items[key] = [entry for entry in self.items[key] if entry[0] != item]
        if was_first and self.items[key]:
            enough = max(0, self.items[key][0][1] - self.quantum * self.weight[key])
            self.deficit[key] = min(self.deficit[key], enough)
        self.leave_if_empty(key)

    def leave_if_empty(self, key: str) -> None:
        if not self.items[key]:
            self.keys.remove(key)
            if key in self.to_visit:
                self.to_visit.remove(key)
            if self.visited == key:
                self.visited = None


def drain(queue: FairQueue[T]) -> list[T]:
    return [queue.pop() for _ in range(len(queue))]


@often
@given(quanta, operations)
def test_items_are_served_in_the_order_of_the_paper_whoever_comes_and_goes(
    quantum: int, operations: list[tuple[str, str, int, int]]
) -> None:
    queue: FairQueue[int] = FairQueue(quantum)
    ring = Ring(quantum)
    waiting: list[int] = []
    for item, (name, key, weight, number) in enumerate(operations):
        if name == "push":
            queue.push(item, key, weight, cost=number)
            ring.push(item, key, weight, cost=number)
            waiting.append(item)
        elif waiting and name == "remove":
            leaver = waiting.pop(number % len(waiting))
            queue.remove(leaver)
            ring.remove(leaver)
        elif waiting:
            following = queue.peek()
            served = queue.pop()
            assert served == following == ring.pop()
            waiting.remove(served)
        assert len(queue) == len(waiting)
        assert set(queue) == set(waiting)
    assert drain(queue) == [ring.pop() for _ in waiting]
    assert queue.peek() is None


@often
@given(quanta, operations)
def test_a_position_says_how_many_are_served_until_then(
    quantum: int, operations: list[tuple[str, str, int, int]]
) -> None:
    queue: FairQueue[int] = FairQueue(quantum)
    for item, (name, key, weight, number) in enumerate(operations):
        if name == "push":
            queue.push(item, key, weight, cost=number)
        elif queue and name == "remove":
            queue.remove(sorted(queue)[number % len(queue)])
        elif queue:
            queue.pop()
    positions = {item: queue.position(item) for item in queue}
    assert {item: place for place, item in enumerate(drain(queue), start=1)} == positions


@given(
    quanta,
    st.lists(st.tuples(weights, st.lists(costs, min_size=1, max_size=5)), min_size=2, max_size=4),
)
def test_keys_that_always_wait_share_by_weight(
    quantum: int, senders: list[tuple[int, list[int]]]
) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue(quantum)
    served = [0] * len(senders)
    next_cost = [0] * len(senders)

    def push(sender: int) -> None:
        weight, cycle = senders[sender]
        cost = cycle[next_cost[sender] % len(cycle)]
        queue.push((sender, next_cost[sender]), str(sender), weight, cost)
        next_cost[sender] += 1

    for sender in range(len(senders)):
        push(sender)
        push(sender)
    bound = 2 * quantum + max(max(cycle) / weight for weight, cycle in senders)
    for _ in range(300):
        sender, number = queue.pop()
        _, cycle = senders[sender]
        served[sender] += cycle[number % len(cycle)]
        push(sender)
        shares = [tokens / weight for tokens, (weight, _) in zip(served, senders, strict=True)]
        assert max(shares) - min(shares) <= bound


@given(quanta, st.lists(st.tuples(st.sampled_from(KEYS), weights, costs), max_size=60))
def test_a_keys_items_are_served_in_their_order_and_none_is_lost(
    quantum: int, items: list[tuple[str, int, int]]
) -> None:
    queue: FairQueue[int] = FairQueue(quantum)
    expected: dict[str, deque[int]] = defaultdict(deque)
    for item, (key, weight, cost) in enumerate(items):
        queue.push(item, key, weight, cost)
        expected[key].append(item)
    assert {key: queue.length_of(key) for key in expected} == {
        key: len(waiting) for key, waiting in expected.items()
    }
    for item in drain(queue):
        assert expected[items[item][0]].popleft() == item
    assert not any(expected.values())


@given(quanta, costs, weights, costs)
def test_a_key_that_comes_back_at_once_starves_nobody(
    quantum: int, cost: int, weight: int, resuming: int
) -> None:
    queue: FairQueue[int] = FairQueue(quantum)
    queue.push(0, "patient", 1, resuming)
    ahead = 0
    queue.push(1, "eager", weight, cost)
    while (item := queue.pop()) != 0:
        ahead += cost
        queue.push(item + 1, "eager", weight, cost)  # it had left the ring, and joins again
        assert ahead <= (resuming + 2 * quantum) * weight


def test_having_been_idle_is_no_credit() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(20):
        queue.push(f"busy {number}", "busy", 1, 10)
    for _ in range(10):
        queue.pop()
    for number in range(10):
        queue.push(f"idle {number}", "idle", 1, 10)
    order = [queue.pop().split()[0] for _ in range(20)]
    assert order == ["busy", "idle"] * 10


def test_a_flood_is_passed_by_whoever_sends_little() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(200):
        queue.push(f"flood {number}", "flood", 1, 100)
    assert queue.pop() == "flood 0"
    queue.push("light", "light", 1, 100)
    assert queue.position("light") == 2
    assert [queue.pop(), queue.pop()] == ["flood 1", "light"]


def test_what_was_saved_for_a_dear_item_is_not_spent_on_many_cheap_ones() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("dear", "a", 1, 1000)
    for number in range(10):
        queue.push(f"cheap {number}", "a", 1, 10)
        queue.push(f"other {number}", "b", 1, 10)
    for _ in range(5):
        queue.pop()
    queue.remove("dear")
    order = [queue.pop().split()[0] for _ in range(10)]
    assert order.count("cheap") <= 6


def test_a_new_weight_holds_from_now_on() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.push(f"a {number}", "a", 1, 10)
        queue.push(f"b {number}", "b", 1, 10)
    queue.push("b 100", "b", 3, 10)
    order = [queue.pop()[0] for _ in range(40)]
    assert 29 <= order.count("b") <= 31


def test_the_newest_of_a_key_and_each_keys_load_are_known() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("first", "a", 2, 1)
    queue.push("second", "a", 2, 1)
    queue.push("third", "b", 1, 1)
    assert queue.newest_of("a") == "second"
    assert dict(queue.loads()) == {"a": 1.0, "b": 1.0}
    queue.remove("second")
    assert queue.newest_of("a") == "first"
    assert queue.newest_of("c") is None
    assert "second" not in queue


def test_an_item_is_known_by_what_it_equals() -> None:
    queue: FairQueue[tuple[int, ...]] = FairQueue()
    queue.push((1, 0), "a", 1, 100)
    queue.push((2, 0), "a", 1, 10)
    queue.push((3, 0), "b", 1, 50)
    equal = tuple(int(digit) for digit in "10")  # not the same object
    assert queue.position(equal) == 2
    queue.remove(equal)
    assert drain(queue) == [(2, 0), (3, 0)]


def test_nobody_waiting_leaves_nothing_behind() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(1000):
        queue.push(item, "fickle", 1, 10_000)
        queue.remove(item)
    assert len(queue._heap) < 50
    assert not queue._lanes


@pytest.mark.parametrize(("weight", "cost"), [(0, 1), (1, 0), (-1, 1), (1, -1)])
def test_a_weight_or_a_cost_below_one_is_refused(weight: int, cost: int) -> None:
    queue: FairQueue[int] = FairQueue()
    with pytest.raises(ValueError, match="cost"):
        queue.push(1, "a", weight, cost)
    assert len(queue) == 0


def test_nothing_can_be_served_twice_or_from_an_empty_queue() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push(1, "a", 1, 1)
    with pytest.raises(ValueError, match="Not an item"):
        queue.push(1, "b", 1, 1)
    assert queue.pop() == 1
    with pytest.raises(IndexError):
        queue.pop()
    with pytest.raises(KeyError):
        queue.remove(1)
