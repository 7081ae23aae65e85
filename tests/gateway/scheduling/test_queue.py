"""Turns go by rank, then by weight, whatever keys send and whoever comes and goes."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.gateway.scheduling.queue import Queue, Waiter
from tests.gateway.scheduling.fake_backend import slot_request

KEYS = ("a", "b", "c", "d")

costs = st.integers(1, 50)
cycles = st.lists(costs, min_size=1, max_size=5)
weights = st.integers(1, 4)
names = st.sampled_from(["push"] * 4 + ["serve"] * 3 + ["remove"])
operations = st.lists(
    st.tuples(names, st.sampled_from(KEYS), weights, costs), min_size=20, max_size=100
)
often = settings(max_examples=300)


def waiter(key: str = "", tokens: int = 1, weight: int = 1, **options: object) -> Waiter:
    return Waiter(slot_request(tokens, key=key, weight=weight, **options))


def push(queue: Queue[Waiter], *waiters: Waiter) -> tuple[Waiter, ...]:
    for one in waiters:
        queue.push(one)
    return waiters


def serve(queue: Queue[Waiter]) -> Waiter:
    first = queue.first()
    assert first is not None
    queue.serve(first)
    return first


def drain(queue: Queue[Waiter]) -> list[Waiter]:
    return [serve(queue) for _ in range(len(queue))]


def keys(waiters: list[Waiter]) -> str:
    return "".join(one.request.key for one in waiters)


# Fairness -----------------------------------------------------------------------------------


@often
@given(st.lists(st.tuples(weights, cycles), min_size=2, max_size=4))
def test_keys_that_always_wait_share_tokens_by_weight(senders: list[tuple[int, list[int]]]) -> None:
    queue: Queue[Waiter] = Queue()
    served = [0] * len(senders)
    sent = [0] * len(senders)

    def send(sender: int) -> None:
        weight, cycle = senders[sender]
        queue.push(waiter(str(sender), cycle[sent[sender] % len(cycle)], weight))
        sent[sender] += 1

    for sender in range(len(senders)):
        send(sender)
        send(sender)
    largest = [max(cycle) / weight for weight, cycle in senders]
    for _ in range(300):
        one = serve(queue)
        sender = int(one.request.key)
        served[sender] += one.request.tokens
        send(sender)
        shares = [tokens / weight for tokens, (weight, _) in zip(served, senders, strict=True)]
        for a in range(len(senders)):
            for b in range(a):
                # Golestani's bound, and what rounding loses.
                assert abs(shares[a] - shares[b]) <= largest[a] + largest[b] + 0.01


@often
@given(operations, costs, weights)
def test_nobody_is_delayed_by_more_than_the_others_shares(
    operations: list[tuple[str, str, int, int]], tokens: int, weight: int
) -> None:
    queue: Queue[Waiter] = Queue()
    for name, key, its_weight, cost in operations:
        if name == "push":
            queue.push(waiter(key, cost, its_weight))
        elif queue:
            serve(queue)
    weight_of = {one.request.key: _weight_in(queue, one) for one in queue}
    (light,) = push(queue, waiter("light", tokens, weight))
    ahead: dict[str, int] = defaultdict(int)
    while (one := serve(queue)) is not light:
        ahead[one.request.key] += one.request.tokens
    for key, taken in ahead.items():
        # One request of theirs may be on its way to its finish already.
        assert taken / weight_of[key] <= tokens / weight + 50 / weight_of[key] + 0.01


def _weight_in(queue: Queue[Waiter], one: Waiter) -> int:
    """The newest weight of a key that waits."""
    of_key = [other for other in queue if other.request.key == one.request.key]
    return max(of_key, key=lambda other: other.number).request.weight


@given(costs, weights, costs)
def test_a_key_that_comes_back_at_once_starves_nobody(cost: int, weight: int, tokens: int) -> None:
    queue: Queue[Waiter] = Queue()
    steady, _ = push(queue, waiter("steady", tokens), waiter("eager", cost, weight))
    ahead = 0
    while serve(queue) is not steady:
        ahead += cost
        queue.push(waiter("eager", cost, weight))
        assert ahead <= tokens * weight + 1


def test_having_been_idle_is_no_credit() -> None:
    queue: Queue[Waiter] = Queue()
    push(queue, *(waiter("b", 10) for _ in range(20)))
    for _ in range(10):
        serve(queue)
    push(queue, *(waiter("i", 10) for _ in range(10)))
    assert keys(drain(queue)) == "bi" * 10


def test_a_flood_is_passed_by_a_key_that_sends_little() -> None:
    queue: Queue[Waiter] = Queue()
    flood = push(queue, *(waiter("flood", 100) for _ in range(200)))
    assert serve(queue) is flood[0]
    (light,) = push(queue, waiter("light", 100))
    assert queue.position(light) == 2
    assert [serve(queue), serve(queue)] == [flood[1], light]


def test_a_large_request_waits_for_no_more_than_it_asks_for() -> None:
    queue: Queue[Waiter] = Queue()
    push(queue, waiter("l", 1000), *(waiter("s", 100) for _ in range(20)))
    assert keys(drain(queue)) == "s" * 9 + "l" + "s" * 11


def test_what_a_large_request_waited_for_is_not_spent_on_many_small_ones() -> None:
    queue: Queue[Waiter] = Queue()
    (large,) = push(queue, waiter("a", 1000))
    for _ in range(10):
        push(queue, waiter("a", 10), waiter("b", 10))
    for _ in range(5):
        serve(queue)
    queue.remove(large)
    assert keys(drain(queue)[:10]).count("a") <= 6


def test_requests_that_leave_are_not_paid_for() -> None:
    queue: Queue[Waiter] = Queue()
    fickle = push(queue, *(waiter("f", 10) for _ in range(100)))
    push(queue, *(waiter("s", 10) for _ in range(10)))
    for one in fickle[:90]:
        queue.remove(one)
    assert keys(drain(queue)) == "fs" * 10


def test_a_new_weight_holds_from_now_on() -> None:
    queue: Queue[Waiter] = Queue()
    for _ in range(100):
        push(queue, waiter("a", 10), waiter("b", 10))
    push(queue, waiter("b", 10, weight=3))
    assert 29 <= keys([serve(queue) for _ in range(40)]).count("b") <= 31


@given(st.lists(st.tuples(st.sampled_from(KEYS), weights, costs), max_size=60))
def test_a_keys_requests_are_served_in_their_order_and_none_is_lost(
    items: list[tuple[str, int, int]],
) -> None:
    queue: Queue[Waiter] = Queue()
    expected: dict[str, deque[Waiter]] = defaultdict(deque)
    for key, weight, cost in items:
        expected[key].extend(push(queue, waiter(key, cost, weight)))
    assert len(queue) == len(items)
    for one in drain(queue):
        assert expected[one.request.key].popleft() is one
    assert not any(expected.values())


# Rank and routes ----------------------------------------------------------------------------


def test_answers_that_were_cut_come_first_then_retries_then_newcomers() -> None:
    queue: Queue[Waiter] = Queue()
    new, retry, cut = push(
        queue,
        waiter("a"),
        waiter("a", 100, failed_on={"x"}),
        waiter("a", 1000, failed_on={"x"}, resuming=True),
    )
    assert [queue.position(one) for one in (cut, retry, new)] == [1, 2, 3]
    assert drain(queue) == [cut, retry, new]


def test_keys_take_turns_among_retries_too() -> None:
    queue: Queue[Waiter] = Queue()
    push(queue, *(waiter("f", 10, failed_on={"x"}) for _ in range(20)))
    (light,) = push(queue, waiter("l", 10, failed_on={"y"}))
    serve(queue)
    assert serve(queue) is light


def test_retries_cost_a_keys_newcomers_no_turn() -> None:
    queue: Queue[Waiter] = Queue()
    push(queue, *(waiter("a", 1000, failed_on={"x"}) for _ in range(5)))
    for _ in range(5):
        serve(queue)
    push(queue, waiter("a", 10), waiter("b", 10), waiter("a", 10), waiter("b", 10))
    assert keys(drain(queue)) == "abab"


def test_a_route_that_is_held_up_holds_up_no_other() -> None:
    queue: Queue[Waiter] = Queue()
    narrow, narrow_too, free = push(
        queue, waiter("a", excluded={"x"}), waiter("b", excluded={"x"}), waiter("c", 1000)
    )
    assert queue.first() is narrow
    assert queue.first({narrow.request.route}) is free
    assert queue.first({narrow.request.route, free.request.route}) is None
    assert narrow_too in queue.on_route(narrow.request.route)


def test_a_key_whose_route_was_held_up_does_not_catch_up_at_once() -> None:
    queue: Queue[Waiter] = Queue()
    held = push(queue, *(waiter("h", 10, excluded={"x"}) for _ in range(10)))
    push(queue, *(waiter("f", 10) for _ in range(20)))
    for _ in range(10):
        free = queue.first({held[0].request.route})
        assert free is not None
        queue.serve(free)
    assert keys(drain(queue)) == "h" + "hf" * 9 + "f"


# Bookkeeping --------------------------------------------------------------------------------


@often
@given(operations)
def test_a_position_says_how_many_are_served_until_then(
    operations: list[tuple[str, str, int, int]],
) -> None:
    queue: Queue[Waiter] = Queue()
    waiting: list[Waiter] = []
    for name, key, weight, number in operations:
        if name == "push":
            waiting += push(queue, waiter(key, number, weight))
        elif waiting and name == "remove":
            queue.remove(waiting.pop(number % len(waiting)))
        elif waiting:
            waiting.remove(serve(queue))
        assert len(queue) == queue.newcomers == len(waiting)
        assert set(queue) == set(waiting)
    newest = {one.request.key: one for one in waiting}
    positions = {one: queue.position(one) for one in newest.values()}
    places = {one: place for place, one in enumerate(drain(queue), start=1)}
    assert positions == {one: places[one] for one in positions}
    assert queue.first() is None


def test_room_is_made_by_the_newest_of_the_key_that_has_the_most_by_its_weight() -> None:
    queue: Queue[Waiter] = Queue()
    _, newest = push(queue, waiter("a", excluded={"x"}), waiter("a"))
    push(queue, *(waiter("heavy", weight=4) for _ in range(4)))
    push(queue, *(waiter("b", failed_on={"x"}) for _ in range(9)))  # retries don't count
    push(queue, waiter("b"))
    assert queue.greediest(than="b") == (newest, 2)
    assert queue.greediest(than="a") is None
    queue.remove(newest)
    assert queue.greediest(than="b") is None


def test_a_queue_that_everybody_left_keeps_nothing() -> None:
    queue: Queue[Waiter] = Queue()
    for _ in range(1000):
        (one,) = push(queue, waiter("fickle", 10_000))
        queue.remove(one)
        assert one not in queue
    assert not queue._lanes


@pytest.mark.parametrize("weight", [0, -1])
def test_a_weight_below_one_is_refused(weight: int) -> None:
    queue: Queue[Waiter] = Queue()
    with pytest.raises(ValueError, match="weight"):
        queue.push(waiter(weight=weight))
    assert len(queue) == 0


def test_nobody_waits_twice_or_is_served_without_waiting() -> None:
    queue: Queue[Waiter] = Queue()
    (one,) = push(queue, waiter("a"))
    with pytest.raises(ValueError, match="Not a request"):
        queue.push(one)
    assert serve(queue) is one
    leave: list[Callable[[Waiter], object]] = [queue.serve, queue.remove, queue.position]
    for operation in leave:
        with pytest.raises(KeyError):
            operation(one)
