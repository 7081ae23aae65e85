"""Names are used again, failures are paused after, and what engines told is remembered."""

from __future__ import annotations

import pytest

from reverie.cluster.messages import EngineInfo
from reverie.cluster.roster import EngineRecord, ModelRecord, Roster
from tests.cluster.launcher import spec, wanted


def engine(number: int, source: str = "file", **of: object) -> EngineRecord:
    uid = f"u{number}"
    info = EngineInfo(uid, 1, "ready", slots=2, memory=5)
    made = spec("m", source)
    return EngineRecord(f"m/{number}", uid, made, "a", 0.0, info, 0.0, made.digest, **of)  # type: ignore[arg-type]


def model(*engines: EngineRecord) -> ModelRecord:
    made = ModelRecord("m", engines={one.uid: one for one in engines})
    made.want(wanted(bounds="0-9", idle=10), 0.0)
    return made


def test_a_replacement_gets_the_name_of_the_dead_and_others_the_lowest_that_is_free() -> None:
    made = model(engine(0), engine(3))
    made.vacate(engine(5))
    assert made.free_number() == 5
    assert made.free_number() == 1
    made.vacate(engine(3))  # which is still there
    assert made.free_number() == 1
    made.vacate(engine(7))
    made.forget_vacancies()
    assert made.free_number() == 1


def test_slots_are_those_that_an_engine_told_or_else_the_configured() -> None:
    assert model().slots == 2
    told = engine(0)
    told.info = EngineInfo("u0", 1, "ready", slots=7)
    assert model(told).slots == 7


def test_after_each_failure_the_pause_is_longer_until_an_engine_lasts() -> None:
    made = model()
    for failures, resume in ((1, 100.5), (2, 101), (3, 102)):
        made.failed(engine(0), "no disk", 100.0)
        assert (made.failures, made.resume) == (failures, resume)
    assert made.reason == "Its engine failed on a: no disk"
    assert (made.avoided(159), made.avoided(161)) == ({"a"}, set())
    made.engines = {"u0": engine(0), "u1": engine(1, source="old")}
    made.engines["u0"].since = made.engines["u1"].since = 195.0
    made.recover(204.0)
    assert made.failures == 3
    made.recover(205.0)
    assert (made.failures, made.resume, made.reason) == (0, 0.0, "")


def test_an_engine_that_dies_soon_after_it_was_ready_is_replaced_at_once_the_first_time() -> None:
    made, killed = model(), engine(0, was_ready=True)
    pauses = []
    for _ in range(4):
        made.failed(killed, "killed", 100.0)
        pauses.append(made.resume - 100.0)
    assert pauses == [0, 0.5, 1, 2]


def test_a_start_takes_as_long_as_the_last_ones_did() -> None:
    made = model()
    for took in (900, 2, 3, 3, 4, 5):
        made.learn(engine(0), took, first_ready=True)
    assert made.seconds_to_ready == 3
    made.want(wanted(source="other", generation=2), 0.0)
    assert made.seconds_to_ready is None
    made.learn(engine(0), 7.0, first_ready=True)  # of the old configuration
    assert (made.seconds_to_ready, made.memory) == (None, 0)


def test_what_adopted_engines_told_before_the_first_configuration_counts() -> None:
    adopted = engine(0, adopted=True)
    adopted.info = EngineInfo("u0", 1, "ready", memory=5, seconds_to_ready=4.0)
    made = model(adopted, engine(1))
    assert (made.seconds_to_ready, made.memory) == (4.0, 5)
    made.measure(0, True, 1.0)
    assert (made.need, made.keep(1.0), made.keep(11.0)) == (0, 2, 0)


def test_the_number_of_engines_is_frozen_while_no_gateway_lives() -> None:
    made = model(engine(0), engine(1))
    made.measure(1, True, 20.0)
    assert made.need == 1
    made.measure(0, False, 30.0)
    del made.engines["u1"]
    made.measure(0, False, 90.0)
    assert made.need == 2
    made.measure(0, True, 100.0)
    assert (made.need, made.keep(109.0), made.keep(111.0)) == (0, 2, 0)


@pytest.mark.parametrize(
    ("state", "age", "hopeless"),
    [
        ("loading", 599, False),
        ("loading", 600, True),
        ("restarting", 600, True),
        ("fetching", 7199, False),
        ("fetching", 7200, True),
        ("ready", 10**9, False),
        ("failed", 0, True),
    ],
)
def test_an_engine_that_is_not_ready_in_time_is_hopeless(
    state: str, age: float, hopeless: bool
) -> None:
    made = engine(0)
    made.told(EngineInfo("u0", 2, state), 0.0)  # type: ignore[arg-type]
    assert bool(made.trouble(age)) == hopeless


def test_engines_that_have_ended_are_told_of_up_to_a_bound() -> None:
    roster = Roster()
    one = engine(0)
    assert not roster.remove(one)
    for number in range(3000):
        one = engine(number)
        roster.add(one)
        assert roster.remove(one)
    assert (len(roster.ended()), roster.ended()[-1]) == (2000, "u2999")
