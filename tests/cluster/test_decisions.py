"""What is done about a model's engines, case by case."""

from __future__ import annotations

from reverie.cluster.decisions import Decision, Situation, decide
from reverie.cluster.messages import EngineInfo, Machine
from reverie.cluster.roster import EngineRecord, ModelRecord
from tests.cluster.launcher import machine, spec, wanted

NOW = 1000.0


def engine(
    number: int, at: str = "a", source: str = "file", *, ready: bool = True, leaving: float = 0
) -> EngineRecord:
    uid, made = f"u{number}", spec("m", source)
    info = EngineInfo(uid, 1, "ready" if ready else "loading")
    record = EngineRecord(f"m/{number}", uid, made, at, 0.0, info, 0.0, made.digest)
    record.was_ready = ready
    record.leaving = leaving or None
    return record


def decided(
    *engines: EngineRecord,
    need: int,
    keep: int = 0,
    most: int = 9,
    room: int = 9,
    draining: tuple[str, ...] = (),
    running: dict[str, int] | None = None,
    failures: int = 0,
    makes_room: bool = True,
) -> tuple[int, list[str], list[str], str]:
    """The number of starts, who comes back, who leaves, and why engines are missing."""
    model = ModelRecord("m", engines={one.uid: one for one in engines})
    model.want(wanted(bounds=f"0-{most}"), 0.0)
    model.need, model.failures, model.reason = need, failures, "It broke." if failures else ""
    left = [room]

    def find_room() -> Machine | str:
        left[0] -= 1
        return machine("z") if left[0] >= 0 else "No room."

    at = Situation(
        NOW,
        max(need, keep),
        most,
        draining,
        lambda one: (running or {}).get(one.name, 0),
        find_room,
        lambda one: makes_room,
    )
    made: Decision = decide(model, at)
    return (
        len(made.start),
        [one.name for one in made.back],
        [one.name for one in made.leave],
        made.why,
    )


def test_what_is_missing_is_started_as_far_as_there_is_room() -> None:
    assert decided(engine(0), need=3) == (2, [], [], "")
    assert decided(engine(0), need=3, room=1) == (1, [], [], "No room.")
    assert decided(engine(0), engine(1, ready=False), need=2) == (0, [], [], "")


def test_one_that_leaves_is_taken_back_before_another_is_started() -> None:
    leaving = [engine(0, leaving=NOW - 50), engine(1, leaving=NOW - 50)]
    assert decided(*leaving, need=1, running={"m/1": 1}) == (0, ["m/1"], [], "")
    assert decided(*leaving, need=3) == (1, ["m/0", "m/1"], [], "")
    leaving[0].stopping = True
    assert decided(*leaving, need=2) == (1, ["m/1"], [], "")


def test_no_more_are_taken_back_than_may_stay() -> None:
    old = [engine(n, source="old") for n in range(2)]
    back = [engine(n, leaving=NOW - 60) for n in (2, 3)]
    assert decided(*old, *back, need=2, most=2)[1] == ["m/2"]


def test_one_too_many_leaves_at_a_time() -> None:
    four = [engine(n) for n in range(4)]
    assert decided(*four, need=1)[2] == ["m/3"]
    assert decided(*four, need=1, keep=4)[2] == []
    assert decided(*four, need=1, running={"m/3": 1, "m/2": 2})[2] == ["m/1"]
    four[3].leaving = NOW - 5
    assert decided(*four, need=1)[2] == []
    four[3].leaving = NOW - 15  # it has a long answer to end
    assert decided(*four, need=1)[2] == ["m/2"]


def test_an_engine_that_is_still_starting_is_the_first_to_leave() -> None:
    three = [engine(0, ready=False), engine(1), engine(2)]
    assert decided(*three, need=2)[2] == ["m/0"]


def test_outdated_engines_are_replaced_one_by_one() -> None:
    old = [engine(n, source="old") for n in range(3)]
    assert decided(*old, need=3, most=3) == (1, [], [], "")
    assert decided(*old, engine(3, ready=False), need=3, most=3) == (0, [], [], "")
    assert decided(*old, engine(3), need=3, most=3, running={"m/2": 1}) == (0, [], ["m/1"], "")
    old[1].leaving = NOW - 60
    assert decided(*old, engine(3), need=3, most=3) == (0, [], [], "")


def test_an_outdated_engine_that_nobody_uses_yet_leaves_at_once() -> None:
    assert decided(engine(0, source="old", ready=False), need=1) == (1, [], ["m/0"], "")


def test_without_room_one_outdated_engine_leaves_first_if_that_makes_room() -> None:
    old = [engine(n, source="old") for n in range(3)]
    assert decided(*old, need=3, room=0)[2] == ["m/2"]
    assert decided(*old, need=3, room=0, makes_room=False)[2] == []
    assert decided(*old, need=3, room=0, failures=1)[2] == []
    assert decided(*old[:2], engine(3, ready=False), need=4, room=0)[2] == []


def test_engines_of_a_machine_that_drains_leave_once_they_are_replaced() -> None:
    two = [engine(0, at="d"), engine(1, at="d")]
    assert decided(*two, need=2, draining=("d",)) == (2, [], [], "")
    assert decided(*two, need=2, most=2, draining=("d",)) == (1, [], [], "")
    assert decided(*two, engine(2), need=2, draining=("d",)) == (1, [], ["m/1"], "")
    assert decided(*two, engine(2), engine(3), need=2, draining=("d",))[2] == ["m/1", "m/0"]


def test_without_room_elsewhere_those_leave_that_nothing_comes_for() -> None:
    three = [engine(n, at="d") for n in range(3)]
    assert decided(*three, need=3, room=0, draining=("d",))[2] == ["m/2", "m/1", "m/0"]
    started, _, leave, why = decided(*three, need=3, room=1, draining=("d",))
    assert (started, leave, why) == (1, ["m/2", "m/1"], "No room.")


def test_what_fails_again_and_again_is_tried_one_by_one_and_holds_up_no_drain() -> None:
    assert decided(need=5, failures=2)[0] == 5
    assert decided(need=5, failures=3) == (1, [], [], "It broke.")
    assert decided(engine(0, ready=False), need=5, failures=3)[0] == 0
    drained = [engine(0, at="d"), engine(1, ready=False)]
    assert decided(*drained, need=1, failures=3, draining=("d",))[2] == []
    assert decided(drained[0], need=1, failures=3, room=0, draining=("d",))[2] == ["m/0"]


def test_no_more_run_at_once_than_one_above_the_most() -> None:
    leaving = [engine(n, source="old", leaving=NOW - 60) for n in range(2)]
    assert decided(engine(5), *leaving, need=2, most=2)[0] == 0
    assert decided(engine(5), leaving[0], need=2, most=2)[0] == 1


def test_that_outdated_engines_can_not_be_replaced_is_told_though_they_run() -> None:
    old = [engine(0, source="old"), engine(1, source="old")]
    assert decided(*old, need=2, failures=1)[3] == "It broke."
    assert decided(*old, need=2, room=0, makes_room=False) == (0, [], [], "No room.")
    assert decided(*old, engine(2, ready=False), need=2) == (0, [], [], "")
    assert decided(*old, need=2) == (1, [], [], "")
    assert decided(engine(0), engine(1), engine(2, source="old"), need=2, failures=1)[3] == ""
