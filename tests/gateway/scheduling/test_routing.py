"""The choice of a backend, over states that the test makes up."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from reverie.backends.base import Health
from reverie.errors import BackendError
from reverie.gateway.scheduling.backend_state import FAILURES, BackendState
from reverie.gateway.scheduling.routing import affinity_of, choose
from reverie.request import GenerateRequest
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request

NOW = 1000.0


def state(name: str, slots: int = 8, *, in_flight: int = 0, **options: Any) -> BackendState:
    made = BackendState("m", FakeBackend(name, slots, **options), lambda: NOW)
    for _ in range(in_flight):
        made.take(0)
    return made


def measured(made: BackendState, per_token: float, ttft: float = 0.1) -> BackendState:
    made.speed.add(NOW, ttft, per_token)
    return made


def chosen(*states: BackendState, **options: Any) -> str | None:
    found = choose(states, slot_request(**options), NOW)
    return found and found.name


def fail(state: BackendState) -> None:
    ticket = state.take(0)
    state.failed(ticket, BackendError("no"))
    state.give_back(ticket)


def conversations(count: int) -> list[bytes]:
    chance = random.Random(1)
    return [chance.randbytes(16) for _ in range(count)]


# Affinity -----------------------------------------------------------------------------------


def test_a_conversation_is_at_home_on_one_backend_in_whatever_order_they_stand() -> None:
    a, b, c = state("a"), state("b"), state("c")
    for conversation in conversations(50):
        homes = {
            chosen(*order, affinity=conversation) for order in ((a, b, c), (c, b, a), (b, a, c))
        }
        assert len(homes) == 1


def test_conversations_are_shared_by_weight() -> None:
    states = [state("a"), state("b", weight=2.0), state("c", weight=0.5)]
    homes = Counter(chosen(*states, affinity=one) for one in conversations(3500))
    assert homes["b"] / homes["a"] == pytest.approx(2, rel=0.15)
    assert homes["c"] / homes["a"] == pytest.approx(0.5, rel=0.15)


def test_conversations_are_shared_by_slots() -> None:
    states = [state("a", 2), state("b", 8)]
    homes = Counter(chosen(*states, affinity=one) for one in conversations(3500))
    assert homes["b"] / homes["a"] == pytest.approx(4, rel=0.15)


def test_when_a_backend_goes_its_conversations_alone_move_and_come_back_with_it() -> None:
    states = [state("a"), state("b"), state("c")]
    before = {one: chosen(*states, affinity=one) for one in conversations(300)}
    states[1].backend.ready = False  # type: ignore[misc]
    moved = {one: chosen(*states, affinity=one) for one in before}
    assert {one for one in before if before[one] != moved[one]} == {
        one for one in before if before[one] == "b"
    }
    assert {moved[one] for one in before if before[one] == "b"} == {"a", "c"}
    states[1].backend.ready = True  # type: ignore[misc]
    assert {one: chosen(*states, affinity=one) for one in before} == before


def test_a_crowd_of_one_conversation_is_spread_beyond_the_bound() -> None:
    states = [state("a", 64), state("b", 64), state("c", 64)]
    for _ in range(90):
        home = choose(states, slot_request(affinity=b"crowd"), NOW)
        assert home is not None
        home.take(0)
    loads = sorted(one.in_flight for one in states)
    assert loads[-1] <= 1.25 * 30 + 2
    assert loads[0] >= 20


def test_two_turns_at_once_on_idle_backends_both_go_home() -> None:
    states = [state("a"), state("b")]
    home = choose(states, slot_request(affinity=b"1"), NOW)
    assert home is not None
    home.take(0)
    assert choose(states, slot_request(affinity=b"1"), NOW) is home


def test_a_home_without_room_or_trust_is_passed_over() -> None:
    a, b = state("a"), state("b")
    for conversation in conversations(20):
        assert chosen(a, b, affinity=conversation, excluded={"a"}) == "b"
    fail(a)
    assert {chosen(a, b, affinity=one) for one in conversations(20)} == {"b"}


# Load and speed -----------------------------------------------------------------------------


def test_without_measurements_the_least_loaded_is_taken() -> None:
    assert chosen(state("a", 8, in_flight=2), state("b", 8, in_flight=1)) == "b"
    assert chosen(state("a", 8, in_flight=2), state("b", 2, in_flight=1)) == "a"
    assert chosen(state("a", in_flight=2), state("b", in_flight=3, weight=2.0)) == "b"


def test_a_fast_backend_takes_as_many_more_as_it_is_faster() -> None:
    fast, slow = measured(state("fast", 64), 0.01), measured(state("slow", 64), 0.04)
    for _ in range(50):
        one = choose([slow, fast], slot_request(), NOW)
        assert one is not None
        one.take(0)
    assert fast.in_flight / slow.in_flight == pytest.approx(4, rel=0.3)


def test_a_slow_first_token_counts_too() -> None:
    quick, late = measured(state("quick"), 0.01, 0.1), measured(state("late"), 0.01, 9.0)
    assert chosen(late, quick) == "quick"


def test_a_backend_that_is_not_measured_is_explored() -> None:
    known = measured(state("known"), 0.01)
    assert chosen(known, state("cold")) == "cold"
    assert chosen(known, state("cold", in_flight=1)) == "known"


def test_a_measurement_is_forgotten_in_the_end() -> None:
    slow, fast = state("slow"), measured(state("fast"), 0.01)
    slow.speed.add(NOW - 100, 60.0, 5.0)
    assert chosen(slow, fast) == "fast"
    slow.speed = type(slow.speed)()
    slow.speed.add(NOW - 200, 60.0, 5.0)
    assert chosen(slow, fast) == "slow"


def test_a_speed_is_an_average_that_follows_the_newest() -> None:
    one = measured(state("a"), 0.1, 1.0)
    measured(one, 0.2, 2.0)
    assert (one.speed.per_token, one.speed.ttft) == (pytest.approx(0.12), pytest.approx(1.2))
    for _ in range(50):
        measured(one, 0.2, 2.0)
    assert one.speed.per_token == pytest.approx(0.2, rel=0.01)


# Trust --------------------------------------------------------------------------------------


def broken(name: str, clock: list[float]) -> BackendState:
    made = BackendState("m", FakeBackend(name, 8), lambda: clock[0], lambda: 0.0)
    for _ in range(FAILURES):
        fail(made)
    return made


def test_a_retry_is_no_trial_while_there_is_another_backend() -> None:
    clock = [NOW]
    back, good = broken("back", clock), state("good", in_flight=3)
    assert chosen(back, good) == "good"
    clock[0] += 60
    assert chosen(back, good) == "back"
    assert chosen(back, good, failed_on={"x"}) == "good"
    assert chosen(back, state("full", 1, in_flight=1), failed_on={"x"}) == "back"


def test_a_retry_goes_to_any_backend_that_is_not_down_as_a_last_resort() -> None:
    bad, worse = broken("bad", [NOW]), broken("worse", [NOW])
    worse.backend.health = Health(False, checked_at=NOW, error_code="backend_error")  # type: ignore[misc]
    worse.apply_probe()
    assert chosen(bad, worse) is None
    assert chosen(worse, bad, failed_on={"x"}) == "bad"
    assert chosen(worse, bad, failed_on={"x"}, excluded={"bad"}) is None
    back = broken("back", clock := [NOW - 60])
    clock[0] = NOW
    back.in_flight = 3
    assert chosen(bad, back, failed_on={"x"}) == "back"


def test_nobody_is_chosen_where_nobody_can_be() -> None:
    assert chosen(state("a", ready=False), state("b", 1, in_flight=1)) is None
    assert chosen(broken("a", [NOW]), broken("b", [NOW])) is None
    assert chosen(broken("only", [NOW])) == "only"


# The opening of a conversation --------------------------------------------------------------


def request(*messages: tuple[str, str | None], model: str = "m") -> GenerateRequest:
    return GenerateRequest(
        model=model, messages=[{"role": role, "content": text} for role, text in messages]
    )


OPENING = (("system", "Be kind."), ("user", "Hello"))


def test_each_turn_of_a_conversation_has_the_affinity_of_the_first() -> None:
    turns = (("assistant", "Hi"), ("user", "And now?"), ("system", "Be brief."), ("tool", "42"))
    first = affinity_of(request(*OPENING))
    assert {affinity_of(request(*OPENING, *turns[:n])) for n in range(5)} == {first}


@pytest.mark.parametrize(
    "other",
    [
        request(*OPENING, model="other"),
        request(("system", "Be kind!"), OPENING[1]),
        request(("developer", "Be kind."), OPENING[1]),
        request(OPENING[0], ("user", "Hallo")),
        request(OPENING[1]),
        request(("system", "Be kind.\0user\05\0Hello")),
    ],
)
def test_another_opening_has_another_affinity(other: GenerateRequest) -> None:
    assert affinity_of(other) != affinity_of(request(*OPENING))


def test_long_texts_are_told_apart_by_their_beginning_their_end_and_their_length() -> None:
    text = "x" * 100_000
    texts = [text, text + "x", "y" + text[1:], text[:-1] + "y"]
    assert len({affinity_of(request(("user", text))) for text in texts}) == 4


def test_odd_texts_have_an_affinity_too() -> None:
    assert affinity_of(request(("user", "\ud83d half a character")))
    assert affinity_of(request(("assistant", None), ("user", "")))


def test_no_more_than_a_part_of_a_long_text_is_read() -> None:
    text = "a" * 50_000 + "b" + "a" * 50_000
    other = "a" * 50_000 + "c" + "a" * 50_000
    assert affinity_of(request(("user", text))) == affinity_of(request(("user", other)))


# Beside other gateways ----------------------------------------------------------------------


def shared(name: str, *, in_flight: int = 0, elsewhere: int, gateways: int = 2) -> BackendState:
    made = state(name, in_flight=in_flight)
    made.elsewhere, made.gateways = elsewhere, gateways
    return made


def test_what_others_run_counts_as_load() -> None:
    assert chosen(shared("a", elsewhere=5), shared("b", in_flight=4, elsewhere=0)) == "b"
    assert chosen(shared("a", elsewhere=3), shared("b", in_flight=4, elsewhere=0)) == "a"


def test_a_conversation_leaves_a_home_that_others_fill_for_a_free_slot_elsewhere() -> None:
    for conversation in conversations(20):
        a, b = shared("a", elsewhere=8), shared("b", in_flight=7, elsewhere=0)
        assert chosen(a, b, affinity=conversation) == "b"
        a, b = shared("a", elsewhere=7), shared("b", in_flight=1, elsewhere=0)
        assert chosen(a, b, affinity=conversation) == "b"  # a is far above the mean


def test_where_others_fill_all_one_gets_ones_own_part_and_no_more() -> None:
    full = shared("a", in_flight=4, elsewhere=8)
    assert chosen(full, shared("b", in_flight=3, elsewhere=9)) == "b"
    assert chosen(full, shared("b", in_flight=4, elsewhere=9)) is None
