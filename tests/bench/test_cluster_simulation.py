"""The simulation is the same each time, and the scheduler in it keeps its promises."""

from __future__ import annotations

import asyncio

import cluster_simulation
import pytest
import virtual_time
from cluster_simulation import FLOOD, GREEDY, KEYS, Run, Size, jain, simulate
from simulated_clients import Crowd

SMALL = Size(engines=4, slots=4, clients=120, warm_up=20, seconds=60, seed=7)
ALL_GREEDY = Crowd(int(FLOOD * SMALL.all_slots), KEYS[:6], 0)


def story(run: Run) -> list[tuple[object, ...]]:
    return [(one.turn, one.engine.name, one.queued, one.ended) for one in run.clients.served]


def test_a_seed_always_gives_the_same_story_and_another_seed_another() -> None:
    first, again = (simulate(SMALL, SMALL.usual(0.8)) for _ in range(2))
    other = simulate(SMALL._replace(seed=8), SMALL.usual(0.8))
    assert story(first) == story(again)
    assert story(first) != story(other)


@pytest.mark.parametrize("gateways", [1, 3])
def test_each_request_is_served_once_and_no_engine_runs_more_than_its_slots(gateways: int) -> None:
    run = simulate(SMALL, ALL_GREEDY, gateways=gateways)
    turns = [(one.turn.conversation, one.turn.number) for one in run.clients.served]
    assert len(turns) == len(set(turns)) == run.clients.asked > 100
    assert {engine.most_running for engine in run.cluster.engines} == {SMALL.slots}
    assert all(gateway.pool.in_flight == 0 for gateway in run.cluster.gateways)


def test_with_one_gateway_nobody_waits_in_an_engine() -> None:
    run = simulate(SMALL, ALL_GREEDY)
    assert all(engine.most_queued == 0 for engine in run.cluster.engines)


def test_gateways_that_are_told_of_each_other_let_fewer_wait_in_engines() -> None:
    def late(told_every: float | None) -> float:
        usual = SMALL.usual(0.5)
        return simulate(SMALL, usual, gateways=3, told_every=told_every).period.queued(95)

    assert late(0.25) < late(None) / 2


def test_nobody_starves_beside_a_greedy_key() -> None:
    greedy = Crowd(int(FLOOD * SMALL.all_slots), [GREEDY], 0)
    run = simulate(SMALL, SMALL.usual(0.5), greedy)
    unfair = simulate(SMALL, SMALL.usual(0.5), greedy, fair=False)
    alone = simulate(SMALL, SMALL.usual(0.5))
    assert set(run.period.tokens()) - {GREEDY.name} == set(alone.period.tokens())

    def others_wait(of: Run) -> float:
        return of.period.queued(95, lambda one: one.turn.key != GREEDY.name)

    assert others_wait(run) < others_wait(unfair) / 3


def test_a_conversation_whose_engine_dies_is_served_on_and_no_other_moves() -> None:
    clients, happened = virtual_time.run(cluster_simulation._happenings(SMALL))
    assert len(clients.served) == clients.asked
    assert sum(one.failovers for one in clients.served) > 0
    assert [one.moved_needlessly for one in happened] == [0] * 6


def test_jains_index_is_one_for_equals_and_the_least_where_one_has_all() -> None:
    assert jain([3, 3, 3]) == 1
    assert jain([0, 0, 5, 0]) == 0.25


def test_time_jumps_to_the_next_timer() -> None:
    async def sleep() -> float:
        await asyncio.sleep(1e6)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(sleep()) == 1e6


def test_whoever_waits_for_nothing_is_told_so() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="no timer is set"):
        virtual_time.run(wait())
