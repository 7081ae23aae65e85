"""What is to be done about one model's engines: plain functions of how they are.

Engines that can't stay as they are, since the configuration changed or their machine drains, are
misfits. They are replaced: a new one first, then the old one leaves. Where no machine has room for
a new one, the old one leaves first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from reverie.cluster.messages import Machine
from reverie.cluster.roster import EngineRecord, ModelRecord

SETTLING = 10.0
"""Seconds for which no other engine is taken away after one, unless that is gone sooner."""
HOPELESS = 3
"""Failures in a row after which one engine is tried at a time, and a machine that drains waits for
no replacement elsewhere."""


class Decision(NamedTuple):
    start: list[Machine]
    """Where new engines go."""
    back: list[EngineRecord]
    """Those that were leaving, and are needed after all."""
    leave: list[EngineRecord]
    why: str
    """Why there are fewer than are needed; empty if none is missing, or they only need time."""


class Situation(NamedTuple):
    """What a decision depends on besides the model itself."""

    now: float
    keep: int
    """Engines that may stay: those that are needed, now or shortly before."""
    most: int
    """Engines that may stay at once; one more while one is replaced."""
    draining: Collection[str]
    """Addresses of machines."""
    running: Callable[[EngineRecord], int]
    """The requests that an engine has."""
    find_room: Callable[[], Machine | str | None]
    """Takes the room for one more engine, or tells why there is none. None: not now."""
    makes_room: Callable[[EngineRecord], bool]
    """Whether a new engine could have the place of this one."""


def decide(model: ModelRecord, at: Situation) -> Decision:
    """What to do about a model's engines, whose configuration is known."""
    going = [one for one in model.engines.values() if one.leaving is not None]
    staying = model.staying
    misfits = [one for one in staying if not _fits(one, model, at)]
    unused = [one for one in misfits if not one.was_ready]
    misfits = [one for one in misfits if one.was_ready]
    staying = [one for one in staying if one not in unused]
    going += unused

    back = _take_back(model, at, going, len(staying), len(staying) - len(misfits))
    staying += back
    going = [one for one in going if one not in back]

    start: list[Machine] = []
    obstacle = ""
    if at.now >= model.resume:
        for _ in range(_to_start(model, at, staying, going, misfits)):
            room = at.find_room()
            if isinstance(room, Machine):
                start.append(room)
                continue
            obstacle = room or ""
            break
    coming = len(start) + sum(not one.was_ready for one in staying)
    leave = [*unused, *_replaced(model, at, staying, going, misfits, coming, bool(obstacle))]
    if not start and not leave and not misfits:
        leave = _surplus(at, staying, going)
    why = _why(model, obstacle, staying, misfits, start, leave)
    return Decision(start, back, leave, why)


def _why(
    model: ModelRecord,
    obstacle: str,
    staying: Sequence[EngineRecord],
    misfits: Sequence[EngineRecord],
    start: Sequence[Machine],
    leave: Sequence[EngineRecord],
) -> str:
    """Why engines are missing. Those that wait for a replacement count, unless none can come."""
    ready = sum(one.ready for one in staying if one not in leave)
    if ready < model.need:
        return obstacle or model.reason
    fit = [one for one in staying if one not in misfits]
    if sum(one.ready for one in fit) >= model.need:
        return ""
    comes = start or leave or not all(one.ready for one in fit)
    return model.reason or ("" if comes else obstacle)


def _fits(engine: EngineRecord, model: ModelRecord, at: Situation) -> bool:
    return engine.digest == model.digest and engine.machine not in at.draining


def _take_back(
    model: ModelRecord, at: Situation, going: Sequence[EngineRecord], staying: int, fit: int
) -> list[EngineRecord]:
    wanted = at.keep if fit < staying else model.need
    missing = min(wanted - fit, at.most + 1 - staying)
    able = [one for one in going if _fits(one, model, at) and not one.stopping]
    able.sort(key=lambda one: (not one.ready, -at.running(one), one.number))
    return able[: max(0, missing)]


def _to_start(
    model: ModelRecord,
    at: Situation,
    staying: Sequence[EngineRecord],
    going: Sequence[EngineRecord],
    misfits: Sequence[EngineRecord],
) -> int:
    """How many engines to start, if there is room: those that are missing, and, ahead of the
    misfits that leave, one for each whose machine drains, or one at a time."""
    missing = max(0, model.need - len(staying))
    drained = sum(one.machine in at.draining for one in misfits)
    fit = [one for one in staying if one not in misfits]
    none_comes = all(one.was_ready for one in fit)
    one_more = len(misfits) > drained and none_comes
    ahead = min(drained + one_more, max(0, at.keep - len(fit) - missing))
    # Those that leave with a machine that drains don't count: no replacement waits for them.
    counted = len(staying) + sum(one.machine not in at.draining for one in going)
    at_once = at.most if model.failures < HOPELESS else 1 if none_comes else 0
    return max(0, min(missing + ahead, at.most + 1 - counted, at_once))


def _replaced(
    model: ModelRecord,
    at: Situation,
    staying: Sequence[EngineRecord],
    going: Sequence[EngineRecord],
    misfits: Sequence[EngineRecord],
    coming: int,
    no_room: bool,
) -> list[EngineRecord]:
    """The misfits that may go now."""
    leave = []
    spare = sum(one.ready for one in staying) - at.keep
    drained = sum(one.machine in at.draining for one in misfits)
    forced = drained - coming if no_room or model.failures >= HOPELESS else 0
    busy = any(one.digest != model.digest for one in going)
    if spare <= 0 and forced <= 0 and (busy or not no_room) and all(one.ready for one in misfits):
        return []  # none may: don't ask how many requests each has
    for one in _idlest_first(misfits, at):
        may_go = spare >= one.ready
        if one.machine in at.draining:
            may_go = may_go or forced > 0
            forced -= 1
        elif busy:
            continue
        elif no_room and not coming and not model.failures:
            may_go = may_go or at.makes_room(one)
        if may_go:
            leave.append(one)
            spare -= one.ready
            busy = busy or one.machine not in at.draining  # one at a time
    return leave


def _surplus(
    at: Situation, staying: Sequence[EngineRecord], going: Sequence[EngineRecord]
) -> list[EngineRecord]:
    """The engine that is needed least, if there are too many."""
    settling = any(at.now - (one.leaving or 0.0) < SETTLING for one in going)
    if settling or len(staying) <= at.keep:
        return []
    return _idlest_first(staying, at)[:1]


def _idlest_first(engines: Sequence[EngineRecord], at: Situation) -> list[EngineRecord]:
    """Those that nobody uses yet first of all, of equals those with the highest number."""
    return sorted(engines, key=lambda one: (one.was_ready, at.running(one), -one.number))
