"""Where requests go as backends fail, pause, hang and recover."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reverie.backends.base import Health
from reverie.errors import (
    BackendError,
    BackendTimeout,
    ConnectionLost,
    ModelLoading,
    Overloaded,
    RefusedByBackend,
    ReverieError,
)
from reverie.gateway.scheduling.backend_state import (
    FAILURE_COOLDOWN,
    FAILURES,
    LONGEST_WAIT,
    PROBE_WAIT,
    SILENCE,
    SLOW_PROBES,
)
from tests.gateway.scheduling.fake_backend import FakeBackend, slot_request
from tests.gateway.scheduling.pools import PoolOnClock, end, pool, queued


async def test_a_backend_that_failed_is_avoided_for_a_while_but_not_left_out() -> None:
    first, second = FakeBackend("first", 2), FakeBackend("second", 2)
    clocked = PoolOnClock(first, second)
    await clocked.end(BackendError("no"), {"second"})
    held = [await clocked.pool.acquire(slot_request()) for _ in range(3)]
    assert [lease.backend for lease in held] == [second, second, first]
    for lease in held:
        lease.release()
    clocked.now += FAILURE_COOLDOWN
    assert await clocked.end(None) == "first"


async def test_a_backend_that_keeps_failing_is_left_alone_until_its_trial() -> None:
    bad, good = FakeBackend("bad", 10), FakeBackend("good", 10)
    clocked = PoolOnClock(bad, good)
    await clocked.open(bad)
    held = [await clocked.pool.acquire(slot_request()) for _ in range(8)]
    assert {lease.backend.name for lease in held} == {"good"}
    clocked.now += LONGEST_WAIT
    trial = await clocked.pool.acquire(slot_request())
    assert trial.backend is bad
    assert (await clocked.pool.acquire(slot_request())).backend is good  # one trial at a time
    trial.succeeded()
    assert (await clocked.pool.acquire(slot_request())).backend is bad


async def test_the_queue_learns_that_a_trial_went_well() -> None:
    bad, good = FakeBackend("bad", 2), FakeBackend("good", 1)
    clocked = PoolOnClock(bad, good)
    await clocked.open(bad)
    await clocked.pool.acquire(slot_request())
    clocked.now += LONGEST_WAIT
    trial = await clocked.pool.acquire(slot_request())
    (waiting,) = await queued(clocked.pool)
    assert not waiting.done()
    trial.succeeded()
    trial.release()
    assert (await asyncio.wait_for(waiting, 1)).backend is bad


async def test_the_queue_learns_of_a_trials_first_token_and_does_not_wait_for_its_end() -> None:
    bad, good = FakeBackend("bad", 3), FakeBackend("good", 1)
    clocked = PoolOnClock(bad, good)
    await clocked.open(bad)
    await clocked.pool.acquire(slot_request())
    clocked.now += LONGEST_WAIT
    trial = await clocked.pool.acquire(slot_request())
    waiting = await queued(clocked.pool, 3)
    trial.on_batch()
    done, left = await asyncio.wait(waiting, timeout=0.05)
    assert [task.result().backend.name for task in done] == ["bad", "bad"]
    await end(list(left))


async def test_when_all_backends_fail_requests_are_refused_at_once_and_told_when_to_come() -> None:
    backends = FakeBackend("one"), FakeBackend("two")
    clocked = PoolOnClock(*backends)
    for backend in backends:
        await clocked.open(backend)
    with pytest.raises(BackendError, match="Every backend of this model fails") as caught:
        await clocked.pool.acquire(slot_request())
    assert (caught.value.status, caught.value.code) == (502, "backend_error")
    assert caught.value.headers["Retry-After"] == "1"
    clocked.now += LONGEST_WAIT
    await clocked.end(None)


async def test_a_busy_backend_has_not_come_back_though_it_answers_probes() -> None:
    busy = FakeBackend("busy")
    clocked = PoolOnClock(busy, FakeBackend("other"))
    clocked.probe(busy, good=True)
    await clocked.end(Overloaded("busy", retry_after=2.0), {"other"})
    clocked.probe(busy, good=True)
    assert not clocked.pool.may_recover(busy)
    clocked.now += 2.0
    assert clocked.pool.may_recover(busy)


async def test_backends_that_fail_requests_and_answer_probes_are_not_all_given_up() -> None:
    """It may be one client's requests that they fail."""
    backends = FakeBackend("one", 4), FakeBackend("two", 4)
    clocked = PoolOnClock(*backends)
    for backend in backends:
        await clocked.open(backend)
        clocked.probe(backend, good=True)
    assert {clocked.circuit(backend) for backend in backends} == {"open"}
    await clocked.end(None)


async def test_requests_that_wait_when_the_last_backend_fails_are_refused_too() -> None:
    one, two = FakeBackend("one"), FakeBackend("two")
    clocked = PoolOnClock(one, two, queue_timeout=60)
    await clocked.open(one)
    running = await clocked.pool.acquire(slot_request())
    (waiting,) = await queued(clocked.pool)
    clocked.probe(two, good=False)
    running.release()
    with pytest.raises(BackendError, match="Every backend of this model fails") as caught:
        await asyncio.wait_for(waiting, 1)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= PROBE_WAIT
    assert clocked.pool.waiting == 0


async def test_requests_that_wait_for_the_end_of_a_trial_are_refused_when_it_fails() -> None:
    one, two = FakeBackend("one"), FakeBackend("two")
    clocked = PoolOnClock(one, two, queue_timeout=60)
    await clocked.open(one)
    clocked.probe(two, good=False)
    clocked.now += LONGEST_WAIT - 1
    trial = await clocked.pool.acquire(slot_request())
    (waiting,) = await queued(clocked.pool)
    assert not waiting.done()
    trial.failed(BackendTimeout("silent"))
    trial.release()
    with pytest.raises(BackendError, match="Every backend"):
        await asyncio.wait_for(waiting, 1)


async def test_a_models_only_backend_is_tried_however_often_it_failed() -> None:
    only = FakeBackend("only", 2)
    clocked = PoolOnClock(only)
    for _ in range(3 * FAILURES):
        assert await clocked.end(BackendError("no")) == "only"
    clocked.probe(only, good=False)
    assert clocked.circuit(only) == "open"
    await clocked.end(None)
    assert clocked.circuit(only) == "closed"


@pytest.mark.parametrize(
    "error", [RefusedByBackend("no"), Overloaded("busy"), ModelLoading("soon")], ids=repr
)
async def test_what_is_not_a_backends_failure_never_opens_its_circuit(error: ReverieError) -> None:
    backend = FakeBackend("a")
    clocked = PoolOnClock(backend, FakeBackend("b"))
    for _ in range(3 * FAILURES):
        await clocked.end(error, {"b"})
    assert clocked.circuit(backend) == "closed"
    assert backend.wanted_probes == 0


async def test_a_trial_that_the_engine_refuses_as_wrong_shows_that_it_works() -> None:
    bad = FakeBackend("bad")
    clocked = PoolOnClock(bad, FakeBackend("good"))
    await clocked.open(bad)
    clocked.now += LONGEST_WAIT
    await clocked.end(RefusedByBackend("no"), {"good"})
    assert clocked.circuit(bad) == "closed"


async def test_a_busy_backend_is_avoided_for_as_long_as_it_asks_for() -> None:
    first, second = FakeBackend("first", 4), FakeBackend("second", 4)
    clocked = PoolOnClock(first, second)
    await clocked.end(Overloaded("busy", retry_after=7), {"second"})
    clocked.now += 6.9
    await clocked.end(None, {"second"})  # another request may go well there all the same
    assert await clocked.end(None) == "second"
    clocked.now += 0.2
    assert await clocked.end(None) == "first"


async def test_a_failure_has_its_backend_looked_at() -> None:
    backend = FakeBackend("a")
    clocked = PoolOnClock(backend)
    await clocked.end(BackendError("no"))
    assert backend.wanted_probes == 1


async def test_a_failed_probe_takes_a_backend_out_and_a_good_one_brings_it_back() -> None:
    first, second = FakeBackend("first", 4), FakeBackend("second", 4)
    clocked = PoolOnClock(first, second)
    clocked.probe(first, good=False)
    assert await clocked.end(None) == "second"
    clocked.now += PROBE_WAIT
    clocked.pool.wake()  # the same result again is no news
    clocked.probe(first, good=True)
    assert await clocked.end(None) == "first"


async def test_a_probe_that_fails_beside_work_that_goes_well_is_not_believed() -> None:
    backend = FakeBackend("a", 4)
    clocked = PoolOnClock(backend, FakeBackend("b"))
    running = await clocked.pool.acquire(slot_request(excluded={"b"}))
    clocked.probe(backend, good=False, took=5.0, timed_out=True)
    assert clocked.circuit(backend) == "closed"  # busy, it seems
    running.on_batch()
    clocked.now += 3.0
    clocked.probe(backend, good=False, took=5.0)
    assert clocked.circuit(backend) == "closed"  # a token came in the meantime
    clocked.now += 3.0
    clocked.probe(backend, good=False, took=5.0)
    assert clocked.circuit(backend) == "open"


async def test_a_backend_that_hangs_is_left_alone_though_requests_hang_on_it() -> None:
    backend = FakeBackend("a", 4)
    clocked = PoolOnClock(backend, FakeBackend("b"))
    running = await clocked.pool.acquire(slot_request(excluded={"b"}))
    for _ in range(SLOW_PROBES - 1):
        clocked.probe(backend, good=False, took=5.0, timed_out=True)
        assert clocked.circuit(backend) == "closed"
        clocked.now += 10.0
    running.on_batch()
    clocked.now += 3.0
    clocked.probe(backend, good=False, took=5.0, timed_out=True)
    assert clocked.circuit(backend) == "closed"  # a piece came in the meantime
    for _ in range(SLOW_PROBES):
        clocked.now += 10.0
        clocked.probe(backend, good=False, took=5.0, timed_out=True)
    assert clocked.circuit(backend) == "open"


async def test_a_backend_whose_requests_get_nothing_gets_no_more_of_them() -> None:
    one, two = FakeBackend("one", 9), FakeBackend("two", 9)
    clocked = PoolOnClock(one, two)
    hanging = await clocked.pool.acquire(slot_request(excluded={"two"}))
    clocked.now += SILENCE + 1
    held = [await clocked.pool.acquire(slot_request()) for _ in range(4)]
    assert {lease.backend for lease in held} == {two}
    assert one.wanted_probes
    hanging.on_batch()
    assert (await clocked.pool.acquire(slot_request())).backend is one
    clocked.now += SILENCE + 1
    await clocked.pool.acquire(slot_request())  # better a doubtful one than none


async def test_a_backend_that_failed_a_request_is_believed_to_hang_at_its_first_slow_probe() -> (
    None
):
    backend = FakeBackend("a", 4)
    clocked = PoolOnClock(backend, FakeBackend("b"))
    await clocked.end(BackendTimeout("silent"), {"b"})
    clocked.now += 10.0
    await clocked.pool.acquire(slot_request(excluded={"b"}))
    clocked.probe(backend, good=False, took=5.0, timed_out=True)
    assert clocked.circuit(backend) == "open"


async def test_a_backend_that_asked_for_a_pause_has_it_while_there_is_another_to_wait_for() -> None:
    busy, other = FakeBackend("busy", 4), FakeBackend("other")
    shared = pool(busy, other, queue_size=2)
    with await shared.acquire(slot_request(excluded={"other"})) as lease:
        lease.failed(Overloaded("busy", retry_after=0.2))
    running = await shared.acquire(slot_request())
    assert running.backend is other
    waiting = await queued(shared, 2)
    with pytest.raises(Overloaded, match="the queue is full"):
        await shared.acquire(slot_request())
    assert shared.in_flight_on(busy) == 0
    leases = await asyncio.wait_for(asyncio.gather(*waiting), 5)  # its pause is over
    assert [lease.backend for lease in leases] == [busy, busy]


async def test_a_waiting_request_gets_a_backend_whose_trial_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reverie.gateway.scheduling.backend_state.FIRST_WAIT", 0.1)
    monkeypatch.setattr("reverie.gateway.scheduling.backend_state.FAILURE_COOLDOWN", 0.1)
    bad, good = FakeBackend("bad"), FakeBackend("good")
    shared = pool(bad, good)
    for _ in range(FAILURES):
        with await shared.acquire(slot_request(excluded={"good"})) as lease:
            lease.failed(BackendError("no"))
    await shared.acquire(slot_request())
    (waiting,) = await queued(shared)
    assert not waiting.done()
    assert (await asyncio.wait_for(waiting, 5)).backend is bad


async def test_each_change_of_a_backends_state_is_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "reverie.backends")
    bad = FakeBackend("bad")
    clocked = PoolOnClock(bad, FakeBackend("good"))
    for _ in range(FAILURES):
        await clocked.end(BackendTimeout("raw words of an engine", reason="more of them"), {"good"})
    clocked.now += LONGEST_WAIT
    await clocked.end(None, {"good"})
    changes = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert [(line["model"], line["backend"]) for line in changes] == [("m", "bad")] * 3
    assert [(line["state"], line["reason"]) for line in changes] == [
        ("open", "backend_timeout"),
        ("half_open", "trial"),
        ("closed", "success"),
    ]
    assert changes[0]["failures"] == FAILURES


async def test_whoever_waits_is_not_sent_to_a_backend_whose_connection_broke() -> None:
    """Its slot is free the moment it dies: the next in the queue would be lost on it."""
    dead, other = FakeBackend("dead"), FakeBackend("other")
    clocked = PoolOnClock(dead, other)
    leases = [await clocked.pool.acquire(slot_request()) for _ in range(2)]
    waiting = await queued(clocked.pool, 1)
    (broken,) = [lease for lease in leases if lease.backend is dead]
    (whole,) = [lease for lease in leases if lease.backend is other]
    broken.failed(ConnectionLost("broke"))
    broken.release()
    await asyncio.sleep(0)
    assert not waiting[0].done()
    whole.succeeded()
    whole.release()
    assert (await waiting[0]).backend is other


@pytest.mark.parametrize("sign", ["probe", "output", "time"])
async def test_a_backend_whose_connection_broke_is_used_again_once_it_shows_life(
    sign: str,
) -> None:
    one, other = FakeBackend("one", 2), FakeBackend("other")
    clocked = PoolOnClock(one, other)
    leases = [await clocked.pool.acquire(slot_request()) for _ in range(3)]
    broken, beside = [lease for lease in leases if lease.backend is one]
    (waiting,) = await queued(clocked.pool)
    broken.failed(ConnectionLost("broke"))
    broken.release()
    await asyncio.sleep(0)
    assert not waiting.done()
    if sign == "probe":
        clocked.probe(one, good=True)
    elif sign == "output":
        beside.on_batch()
    else:
        clocked.now += FAILURE_COOLDOWN
        clocked.pool.wake()
    assert (await asyncio.wait_for(waiting, 1)).backend is one


async def test_a_backend_whose_connection_broke_is_used_where_no_other_is_left() -> None:
    only = PoolOnClock(FakeBackend("only"))
    await only.end(ConnectionLost("broke"))
    assert await only.end(None) == "only"
    both = PoolOnClock(FakeBackend("first"), FakeBackend("second"))
    await both.end(ConnectionLost("broke"), {"second"})
    await both.end(ConnectionLost("broke"), {"first"})
    assert await both.end(None) in {"first", "second"}


async def test_an_engine_that_restarts_by_itself_is_used_as_soon_as_it_says_that_it_is_ready() -> (
    None
):
    """Nothing probes it, and it says itself when it is gone."""
    own, other = FakeBackend("own"), FakeBackend("other")
    own.recovers = True
    clocked = PoolOnClock(own, other)
    await clocked.end(ConnectionLost("broke"), {"other"})
    held = await clocked.pool.acquire(slot_request(excluded={"own"}))
    assert await clocked.end(None) == "own"
    held.release()


async def test_a_probe_that_finds_nothing_new_lets_nobody_be_looked_at() -> None:
    probed, other = FakeBackend("probed"), FakeBackend("other")
    shared = pool(probed, other)
    looks = 0
    wake = shared.wake

    def look() -> None:
        nonlocal looks
        looks += 1
        wake()

    shared.wake = look  # type: ignore[method-assign]

    def news(**more: Any) -> bool:
        before = looks
        for name, value in more.items():
            setattr(probed, name, value)
        shared.backend_changed(probed)
        return looks > before

    def probe(*, ok: bool = True) -> Health:
        return Health(ok, checked_at=0.0, error_code="" if ok else "backend_error")

    assert news(health=probe())  # the first of all
    assert not any(news(health=probe()) for _ in range(3))
    assert news(health=probe(ok=False))
    assert not news(health=probe(ok=False))
    assert news(health=probe())
    changes = {"slots": 2, "capacity": 9, "context": 8, "weight": 2.0, "ready": False}
    for name, value in changes.items():
        assert news(health=probe(), **{name: value})
        assert not news(health=probe())
    shared.backend_changed(FakeBackend("probed", slots=7))  # its predecessor, which was removed
    assert not news()


async def test_whoever_waits_for_backends_that_are_down_has_each_probed_again() -> None:
    first, second = FakeBackend("first"), FakeBackend("second")
    clocked = PoolOnClock(first, second)
    for backend in (first, second):
        clocked.probe(backend, good=False)
    (waiting,) = await queued(clocked.pool, resuming=True)
    for _ in range(3):
        asked = first.wanted_probes
        first.health = Health(ok=False, checked_at=0.0, error_code="backend_error")
        clocked.pool.backend_changed(first)
        assert first.wanted_probes > asked
    first.health = Health(ok=True, checked_at=0.0)
    clocked.pool.backend_changed(first)
    assert (await asyncio.wait_for(waiting, 1)).backend is first
