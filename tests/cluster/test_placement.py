"""Engines go where there is room, far from each other; and where there is none, it says so."""

from __future__ import annotations

import pytest

from reverie.cluster.messages import EngineSpec, Machine
from reverie.cluster.placement import Placed, Room, place, rooms
from tests.cluster.launcher import machine, spec

GIB = 2**30


def chosen(needs: EngineSpec, *machines: Machine, **more: object) -> str:
    """The address, or the sentence."""
    room = place(needs, rooms(machines, ()).values(), **more)  # type: ignore[arg-type]
    return room.machine.address if isinstance(room, Room) else room


def test_of_equal_machines_it_is_always_the_same_one() -> None:
    for order in ("ab", "ba"):
        assert chosen(spec(), *(machine(one) for one in order)) == "a"


def test_engines_of_a_model_are_spread_first_and_all_engines_then() -> None:
    machines = [machine("a"), machine("b"), machine("c", memory=5)]
    there = [Placed("a", "m", 0, 0), Placed("b", "n", 0, 0), Placed("b", "n", 0, 0)]
    room = place(spec("m"), rooms(machines, there).values())
    assert isinstance(room, Room)
    assert room.machine.address == "c"
    room = place(spec("m"), rooms(machines, [*there, Placed("c", "m", 0, 0)]).values())
    assert isinstance(room, Room)
    assert room.machine.address == "b"


def test_of_machines_with_as_many_engines_the_one_with_most_memory_is_taken() -> None:
    assert chosen(spec(), machine("a", memory=5), machine("b", memory=6)) == "b"


def test_a_machine_to_avoid_is_used_only_if_no_other_has_room() -> None:
    assert chosen(spec(), machine("a"), machine("b"), avoid={"a"}) == "b"
    assert chosen(spec(), machine("a"), machine("b", slots=0), avoid={"a"}) == "a"


def test_memory_that_is_not_known_fits_anywhere() -> None:
    assert chosen(spec(), machine("a", memory=0)) == "a"


def test_an_engine_on_a_gpu_keeps_its_model_there() -> None:
    assert chosen(spec(gpus=1, memory=90), machine("a", gpus=1, memory=5)) == "a"


@pytest.mark.parametrize(
    ("machines", "needs", "draining", "why"),
    [
        (
            [],
            spec(),
            (),
            "There is no machine for engines: start one with `reverie cluster join`.",
        ),
        (
            [machine("a", alive=False)],
            spec(),
            (),
            "There is no machine for engines: start one with `reverie cluster join`.",
        ),
        (
            [machine("the-head", slots=0)],
            spec(),
            (),
            "There is no machine for engines: start one with `reverie cluster join`.",
        ),
        ([machine("a")], spec(), ("a",), "All machines drain."),
        ([machine("a"), machine("the-head", slots=0)], spec(), ("a",), "All machines drain."),
        (
            [machine("a", slots=0), machine("b", slots=3, free_slots=0)],
            spec(),
            (),
            "All engine slots are taken: the machines have 3.",
        ),
        (
            [machine("a", gpus=1), machine("b", gpus=0)],
            spec(gpus=2),
            (),
            "No machine has 2 free GPUs; a has 1.",
        ),
        ([machine("a")], spec(gpus=1), (), "No machine has 1 free GPU; a has none."),
        (
            [machine("a", gpus=2), machine("b")],
            spec(gpus=0.5),
            ("a",),
            "No machine has 0.5 free GPUs; b has none. 1 machine drains.",
        ),
        (
            [machine("a", memory=GIB), machine("b", memory=2 * GIB)],
            spec(memory=int(3.1 * GIB)),
            (),
            "No machine has 3.1 GiB of free memory; b has 2.0 GiB.",
        ),
    ],
)
def test_where_there_is_no_room_a_sentence_says_what_lacks(
    machines: list[Machine], needs: EngineSpec, draining: tuple[str, ...], why: str
) -> None:
    assert chosen(needs, *machines, draining=draining) == why


def test_a_room_that_others_took_is_not_free_though_no_engine_of_ours_is_there() -> None:
    assert "slots are taken" in chosen(spec(), machine("a", free_slots=0))


def test_what_was_started_since_the_machines_told_is_counted() -> None:
    new = Placed("a", "m", 1.0, 0)
    free = rooms([machine("a", slots=2, gpus=2.0)], [new], started=[new])["a"]
    assert (free.slots, free.gpus, free.engines) == (1, 1.0, 1)


def test_what_has_ended_since_the_machines_told_is_free_again() -> None:
    told = machine("a", slots=2, free_slots=0, memory=10, free_memory=0)
    other = Placed("a", "m", 0.0, 4)
    free = rooms([told], [other], ended=[Placed("a", "m", 0.0, 6)])["a"]
    assert (free.slots, free.memory) == (1, 6)


def test_an_engine_that_a_machine_does_not_count_yet_takes_room_all_the_same() -> None:
    free = rooms([machine("a", slots=1)], [Placed("a", "m", 0.0, 0)])["a"]
    assert free.slots == 0
