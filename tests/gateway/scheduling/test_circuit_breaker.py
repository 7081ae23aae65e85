"""The breaker on a clock that only the test moves."""

from __future__ import annotations

import pytest

from reverie.gateway.scheduling.circuit_breaker import (
    FAILURES,
    FIRST_WAIT,
    LONGEST_WAIT,
    PROBE_WAIT,
    Breaker,
)


class Bench:
    """A breaker with its clock, and what it said of its changes."""

    def __init__(self, chance: float = 0.0) -> None:
        self.now = 1000.0
        self.said: list[tuple[str, str]] = []
        self.breaker = Breaker(
            lambda state, reason: self.said.append((state, reason)),
            clock=lambda: self.now,
            chance=lambda: chance,
        )

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(self.breaker.begin(), "backend_error")

    def succeed(self) -> None:
        self.breaker.succeeded(self.breaker.begin())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_goes_through_its_whole_cycle(bench: Bench) -> None:
    breaker = bench.breaker
    bench.fail(FAILURES - 1)
    assert breaker.admits
    bench.fail()
    assert (breaker.state, breaker.admits, breaker.retry_in) == ("open", False, FIRST_WAIT)
    bench.now += FIRST_WAIT - 0.01
    assert breaker.state == "open"
    bench.now += 0.01
    assert (breaker.state, breaker.admits, breaker.retry_in) == ("half_open", True, 0)
    trial = breaker.begin()
    assert (breaker.state, breaker.admits, breaker.on_trial) == ("half_open", False, True)
    breaker.succeeded(trial)
    assert (breaker.state, breaker.admits, breaker.failures) == ("closed", True, 0)
    bench.fail(FAILURES - 1)
    assert breaker.admits  # all is forgiven
    assert bench.said == [
        ("open", "backend_error"),
        ("half_open", "trial"),
        ("closed", "success"),
    ]


def test_a_success_in_between_starts_the_count_again(bench: Bench) -> None:
    for _ in range(5):
        bench.fail(FAILURES - 1)
        bench.succeed()
    assert bench.breaker.state == "closed"


def test_each_trial_that_fails_doubles_the_wait_up_to_a_cap(bench: Bench) -> None:
    bench.fail(FAILURES)
    waits = [bench.breaker.retry_in]
    for _ in range(8):
        bench.now += waits[-1]
        bench.fail()
        waits.append(bench.breaker.retry_in)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30, 30])
    bench.now += LONGEST_WAIT
    bench.succeed()
    bench.fail(FAILURES)
    assert bench.breaker.retry_in == pytest.approx(FIRST_WAIT)


def test_chance_shortens_a_wait_by_up_to_a_half() -> None:
    bench = Bench(chance=1.0)
    bench.fail(FAILURES)
    assert bench.breaker.retry_in == FIRST_WAIT / 2


def test_a_trial_that_its_client_gave_up_leaves_room_for_another(bench: Bench) -> None:
    bench.fail(FAILURES)
    bench.now += FIRST_WAIT
    bench.breaker.left(bench.breaker.begin())
    assert (bench.breaker.state, bench.breaker.admits) == ("half_open", True)


def test_a_first_token_ends_a_trial_but_forgives_nothing(bench: Bench) -> None:
    bench.fail(FAILURES)
    for wait in (FIRST_WAIT, 2 * FIRST_WAIT):
        assert bench.breaker.retry_in == pytest.approx(wait)
        bench.now += wait
        trial = bench.breaker.begin()
        bench.breaker.started(trial)
        assert bench.breaker.state == "closed"
        bench.breaker.failed(trial, "backend_error")  # in mid-answer
        assert bench.breaker.state == "open"


def test_requests_from_before_an_opening_say_nothing_of_what_is_after_it(bench: Bench) -> None:
    before = [bench.breaker.begin() for _ in range(4)]
    bench.fail(FAILURES)
    due = bench.breaker.retry_in
    bench.breaker.failed(before[0], "backend_error")
    bench.breaker.succeeded(before[1])
    bench.breaker.started(before[2])
    assert (bench.breaker.state, bench.breaker.retry_in) == ("open", due)
    bench.now += due
    trial = bench.breaker.begin()
    bench.breaker.left(before[3])
    assert not bench.breaker.admits
    bench.breaker.succeeded(trial)
    assert bench.breaker.state == "closed"


def test_a_failed_probe_opens_it_and_the_next_good_one_closes_it(bench: Bench) -> None:
    bench.breaker.probed(False, "backend_error")
    assert (bench.breaker.state, bench.breaker.retry_in) == ("open", PROBE_WAIT)
    bench.now += PROBE_WAIT
    bench.breaker.probed(False, "backend_error")
    bench.now += PROBE_WAIT
    assert not bench.breaker.admits  # no request finds out what a probe can
    bench.breaker.probed(True, "")
    assert bench.breaker.state == "closed"
    assert bench.said == [("open", "backend_error"), ("closed", "probe")]


def test_who_was_brought_back_by_a_probe_has_no_failure_to_spare(bench: Bench) -> None:
    bench.breaker.probed(False, "backend_error")
    bench.breaker.probed(True, "")
    bench.fail()
    assert bench.breaker.state == "open"


def test_without_any_more_probes_a_failed_one_is_forgotten(bench: Bench) -> None:
    bench.breaker.probed(False, "backend_error")
    bench.now += LONGEST_WAIT
    assert bench.breaker.admits


def test_a_backend_that_answers_probes_but_fails_requests_is_tried_ever_more_seldom(
    bench: Bench,
) -> None:
    bench.fail(FAILURES)
    bench.breaker.probed(True, "")
    assert bench.breaker.state == "open"  # its wait isn't over
    for wait in (1, 2, 4, 8):
        assert bench.breaker.retry_in == pytest.approx(wait)
        bench.now += wait
        bench.breaker.probed(True, "")
        assert bench.breaker.state == "closed"
        bench.fail()  # one is enough
        assert bench.breaker.state == "open"


def test_a_probe_leaves_the_verdict_to_a_trial_that_runs(bench: Bench) -> None:
    bench.fail(FAILURES)
    bench.now += FIRST_WAIT
    trial = bench.breaker.begin()
    bench.breaker.probed(True, "")
    assert bench.breaker.state == "half_open"
    bench.breaker.failed(trial, "backend_error")
    assert bench.breaker.state == "open"


def test_a_request_sent_to_an_open_one_all_the_same_can_close_it(bench: Bench) -> None:
    bench.fail(FAILURES)
    due = bench.breaker.retry_in
    bench.fail()
    assert bench.breaker.retry_in == due  # it was no trial
    bench.succeed()
    assert (bench.breaker.state, bench.breaker.failures) == ("closed", 0)
