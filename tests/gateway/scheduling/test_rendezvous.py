"""Conversations are shared by capacity, and none moves that need not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.rendezvous import Rendezvous
from tests.gateway.scheduling.fake_backend import FakeBackend

CONVERSATIONS = [random.Random(seed).randbytes(16) for seed in range(4000)]


def states(count: int, slots: int = 8, first: int = 0) -> list[BackendState]:
    return [
        BackendState("m", FakeBackend(f"m/{number}", slots), lambda: 0.0)
        for number in range(first, first + count)
    ]


def homes(of: Iterable[BackendState]) -> dict[bytes, str]:
    found = Rendezvous(of)
    return {one: found.home_of(one).name for one in CONVERSATIONS}


@pytest.mark.parametrize("count", [2, 7, 100])
def test_conversations_are_spread_as_evenly_as_chance_would(count: int) -> None:
    shares = Counter(homes(states(count)).values())
    mean = len(CONVERSATIONS) / count
    deviation = sum((share - mean) ** 2 / mean for share in shares.values())
    assert len(shares) == count
    assert deviation < count + 4 * (2 * count) ** 0.5  # chi squared, beyond one in ten thousand


def test_short_and_similar_openings_are_spread_too() -> None:
    found = Rendezvous(states(10))
    shares = Counter(found.home_of(str(number).encode()).name for number in range(1000))
    assert len(shares) == 10
    assert max(shares.values()) < 150


def test_twice_the_capacity_is_home_to_twice_as_many() -> None:
    shares = Counter(homes([*states(1, 4), *states(1, 8, first=1)]).values())
    assert shares["m/1"] / shares["m/0"] == pytest.approx(2, rel=0.1)


def test_what_a_lost_backend_had_is_spread_over_all_others_and_nothing_else_moves() -> None:
    all_states = states(20)
    before, after = homes(all_states), homes(all_states[1:])
    moved = [one for one in CONVERSATIONS if before[one] != after[one]]
    assert {before[one] for one in moved} == {"m/0"}
    assert len({after[one] for one in moved}) == 19


def test_one_more_backend_only_takes_conversations_to_itself() -> None:
    before, after = homes(states(20)), homes(states(21))
    assert {after[one] for one in CONVERSATIONS if before[one] != after[one]} == {"m/20"}


def test_the_order_of_backends_makes_no_difference() -> None:
    all_states = states(20)
    assert homes(all_states) == homes(reversed(all_states))


def test_names_alone_decide_so_that_all_gateways_agree() -> None:
    found = Rendezvous(states(5))
    assert [found.home_of(b"%d" % n).name for n in range(5)] == ["m/1", "m/2", "m/2", "m/0", "m/3"]
