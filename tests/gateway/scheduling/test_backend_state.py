"""A backend's health on a clock that only the test moves: what opens and closes its circuit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.backends.base import Health
from reverie.errors import BackendError, BackendTimeout, Overloaded, RefusedByBackend
from reverie.gateway.scheduling.backend_state import (
    FAILURE_COOLDOWN,
    FAILURES,
    FIRST_WAIT,
    LONGEST_WAIT,
    PROBE_WAIT,
    SILENCE,
    BackendState,
    Ticket,
)
from tests.gateway.scheduling.fake_backend import FakeBackend


class Bench:
    """A backend's state with its clock."""

    def __init__(self, chance: float = 0.0) -> None:
        self.now = 1000.0
        self.backend = FakeBackend("a", 100)
        self.state = BackendState("m", self.backend, lambda: self.now, lambda: chance)

    def begin(self) -> Ticket:
        return self.state.take(0)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            ticket = self.begin()
            self.state.failed(ticket, BackendError("no"))
            self.state.give_back(ticket)

    def succeed(self) -> None:
        ticket = self.begin()
        self.state.succeeded(ticket)
        self.state.give_back(ticket)

    def probe(self, good: bool) -> None:
        self.backend.health = Health(
            good, checked_at=0.0, error_code="" if good else "backend_error"
        )
        self.state.apply_probe()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def changes(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the log says: each new state of the circuit, and its reason."""
    logged = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    return [(line["state"], line["reason"]) for line in logged]


def test_the_circuit_goes_through_its_whole_cycle(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "reverie.backends")
    state = bench.state
    bench.fail(FAILURES - 1)
    assert state.admits
    bench.fail()
    assert (state.circuit, state.admits, state.retry_in) == ("open", False, FIRST_WAIT)
    bench.now += FIRST_WAIT - 0.01
    assert state.circuit == "open"
    bench.now += 0.01
    assert (state.circuit, state.admits, state.retry_in) == ("half_open", True, 0)
    trial = bench.begin()
    assert (state.circuit, state.admits, state.on_trial) == ("half_open", False, True)
    state.succeeded(trial)
    assert (state.circuit, state.admits, state.failures) == ("closed", True, 0)
    bench.fail(FAILURES - 1)
    assert state.admits  # all is forgiven
    assert changes(caplog) == [
        ("open", "backend_error"),
        ("half_open", "trial"),
        ("closed", "success"),
    ]


def test_a_success_in_between_starts_the_count_again(bench: Bench) -> None:
    for _ in range(5):
        bench.fail(FAILURES - 1)
        bench.succeed()
    assert bench.state.circuit == "closed"


def test_each_trial_that_fails_doubles_the_wait_up_to_a_cap(bench: Bench) -> None:
    bench.fail(FAILURES)
    waits = [bench.state.retry_in]
    for _ in range(8):
        bench.now += waits[-1]
        bench.fail()
        waits.append(bench.state.retry_in)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30, 30])
    bench.now += LONGEST_WAIT
    bench.succeed()
    bench.fail(FAILURES)
    assert bench.state.retry_in == pytest.approx(FIRST_WAIT)


def test_chance_shortens_a_wait_by_up_to_a_half() -> None:
    bench = Bench(chance=1.0)
    bench.fail(FAILURES)
    assert bench.state.retry_in == FIRST_WAIT / 2


def test_a_trial_that_its_client_gave_up_leaves_room_for_another(bench: Bench) -> None:
    bench.fail(FAILURES)
    bench.now += FIRST_WAIT
    bench.state.give_back(bench.begin())
    assert (bench.state.circuit, bench.state.admits) == ("half_open", True)


def test_a_trial_that_found_the_backend_busy_leaves_room_for_another(bench: Bench) -> None:
    bench.fail(FAILURES)
    bench.now += FIRST_WAIT
    bench.state.failed(bench.begin(), Overloaded("busy"))
    assert (bench.state.circuit, bench.state.admits) == ("half_open", True)


def test_a_first_token_ends_a_trial_but_forgives_nothing(bench: Bench) -> None:
    bench.fail(FAILURES)
    for wait in (FIRST_WAIT, 2 * FIRST_WAIT):
        assert bench.state.retry_in == pytest.approx(wait)
        bench.now += wait
        trial = bench.begin()
        bench.state.on_first_token(trial)
        assert bench.state.circuit == "closed"
        bench.state.failed(trial, BackendError("in mid-answer"))
        assert bench.state.circuit == "open"


def test_a_whole_answer_ends_a_probation(bench: Bench) -> None:
    bench.probe(False)
    bench.probe(True)
    bench.succeed()
    bench.fail(FAILURES - 1)
    assert bench.state.circuit == "closed"


def test_requests_from_before_an_opening_say_nothing_of_what_is_after_it(bench: Bench) -> None:
    state = bench.state
    before = [bench.begin() for _ in range(4)]
    bench.fail(FAILURES)
    due = state.retry_in
    state.failed(before[0], BackendError("no"))
    state.succeeded(before[1])
    state.on_first_token(before[2])
    assert (state.circuit, state.retry_in) == ("open", due)
    bench.now += due
    trial = bench.begin()
    state.give_back(before[3])
    assert not state.admits
    state.succeeded(trial)
    assert state.circuit == "closed"


def test_a_failed_probe_opens_it_and_the_next_good_one_closes_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "reverie.backends")
    bench.probe(False)
    assert (bench.state.circuit, bench.state.retry_in) == ("open", PROBE_WAIT)
    bench.now += PROBE_WAIT
    bench.probe(False)
    bench.now += PROBE_WAIT
    assert not bench.state.admits  # no request finds out what a probe can
    bench.probe(True)
    assert bench.state.circuit == "closed"
    assert changes(caplog) == [("open", "probe_failed"), ("closed", "probe")]


def test_a_backend_that_a_probe_brought_back_has_no_failure_to_spare(bench: Bench) -> None:
    bench.probe(False)
    bench.probe(True)
    bench.fail()
    assert bench.state.circuit == "open"


def test_without_any_more_probes_a_failed_one_is_forgotten(bench: Bench) -> None:
    bench.probe(False)
    bench.now += LONGEST_WAIT
    assert bench.state.admits


def test_a_backend_that_answers_probes_but_fails_requests_is_tried_ever_more_seldom(
    bench: Bench,
) -> None:
    bench.fail(FAILURES)
    bench.probe(True)
    assert bench.state.circuit == "open"  # its wait isn't over
    for wait in (1, 2, 4, 8):
        assert bench.state.retry_in == pytest.approx(wait)
        bench.now += wait
        bench.probe(True)
        assert bench.state.circuit == "closed"
        bench.fail()  # one is enough
        assert bench.state.circuit == "open"


def test_a_probe_leaves_the_verdict_to_a_trial_that_runs(bench: Bench) -> None:
    bench.fail(FAILURES)
    bench.now += FIRST_WAIT
    trial = bench.begin()
    bench.probe(True)
    assert bench.state.circuit == "half_open"
    bench.state.failed(trial, BackendError("no"))
    assert bench.state.circuit == "open"


def test_a_request_sent_to_an_open_one_all_the_same_can_close_it(bench: Bench) -> None:
    bench.fail(FAILURES)
    due = bench.state.retry_in
    bench.fail()
    assert bench.state.retry_in == due  # it was no trial
    bench.succeed()
    assert (bench.state.circuit, bench.state.failures) == ("closed", 0)


def test_each_state_has_a_reason(bench: Bench) -> None:
    state = bench.state
    seen = [state.reason]

    def note() -> None:
        seen.append(state.reason)

    bench.fail()
    note()
    bench.now += FAILURE_COOLDOWN
    bench.succeed()
    note()
    state.failed(bench.begin(), Overloaded("busy", retry_after=1))
    note()
    bench.now += SILENCE + 1
    note()
    for _ in range(FAILURES):
        state.failed(bench.begin(), BackendTimeout("silent"))
    note()
    bench.now += LONGEST_WAIT
    note()
    trial = bench.begin()
    note()
    state.on_first_token(trial)
    note()
    bench.probe(False)  # which a token in the same moment outweighs
    note()
    bench.now += 1
    bench.probe(False)
    note()
    bench.probe(True)
    note()
    assert seen == [
        None,
        "cooldown",
        "success",
        "paused",
        "silent",
        "backend_timeout",
        "trial_due",
        "trial",
        "first_token",
        "first_token",
        "probe_failed",
        "probe",
    ]


def test_a_refused_request_shows_that_the_backend_works(bench: Bench) -> None:
    bench.fail(FAILURES)
    bench.now += FIRST_WAIT
    bench.state.failed(bench.begin(), RefusedByBackend("no"))
    assert (bench.state.circuit, bench.state.failures) == ("closed", FAILURES)


# Room ---------------------------------------------------------------------------------------


def test_what_a_request_really_comes_to_makes_room_or_takes_it() -> None:
    state = BackendState("m", FakeBackend("a", slots=4, capacity=100), lambda: 0.0)
    ticket = state.take(80)
    assert not state.has_room(30)
    state.resize(ticket, 60)
    assert state.has_room(30)
    state.resize(ticket, 90)
    assert not state.has_room(30)
    state.give_back(ticket)
    assert state.tokens == 0


def test_a_request_that_must_be_alone_waits_for_the_others_and_holds_them_off() -> None:
    state = BackendState("m", FakeBackend("a", slots=4), lambda: 0.0)
    other = state.take(1)
    assert state.has_room(1)
    assert not state.has_room(1, alone=True)
    state.give_back(other)
    assert state.has_room(1, alone=True)
    alone = state.take(1, alone=True)
    assert not state.has_room(1)
    state.give_back(alone)
    assert state.has_room(1)


@given(
    slots=st.integers(1, 16),
    gateways=st.integers(1, 20),
    elsewhere=st.integers(0, 100),
    in_flight=st.integers(0, 20),
)
def test_what_others_run_leaves_a_gateway_its_part_of_the_slots_and_no_more_than_all_of_them(
    slots: int, gateways: int, elsewhere: int, in_flight: int
) -> None:
    state = BackendState("m", FakeBackend("a", slots), lambda: 0.0)
    state.elsewhere, state.gateways = elsewhere, gateways
    for _ in range(in_flight):
        state.take(1)
    if in_flight < slots / gateways:
        assert state.has_room(1)
    if state.has_room(1):
        assert in_flight < slots
        assert in_flight + elsewhere < slots or in_flight < slots / gateways
    assert state.has_free_slot() == (in_flight + elsewhere < slots)


def test_a_request_that_must_be_alone_finds_no_free_slot_beside_those_of_others() -> None:
    state = BackendState("m", FakeBackend("a", slots=4), lambda: 0.0)
    assert state.has_free_slot(alone=True)
    state.elsewhere = 1
    assert state.has_free_slot()
    assert not state.has_free_slot(alone=True)
