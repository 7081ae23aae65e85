"""Which of a request's failures count against its backends, with real leases on fake backends."""

from __future__ import annotations

import pytest

from reverie.errors import BackendError, BackendTimeout
from reverie.gateway.blame import Blame
from reverie.gateway.scheduling.backend_state import FAILURES, BackendState
from reverie.gateway.scheduling.lease import Lease
from tests.gateway.scheduling.fake_backend import FakeBackend


class Bench:
    """Three backends on a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.states = [BackendState("m", FakeBackend(n, 9), lambda: self.now) for n in "abc"]

    def fail(self, blame: Blame, backend: int, error: BackendError) -> None:
        lease = Lease(
            self.states[backend],
            0,
            0,
            clock=lambda: self.now,
            give_back=BackendState.give_back,
            on_resize=BackendState.resize,
        )
        with lease:
            blame.failed(lease, error)

    @property
    def failures(self) -> list[int]:
        return [state.failures for state in self.states]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def said(words: str) -> BackendError:
    return BackendError("no", said=words)


def test_what_two_backends_say_in_the_same_words_counts_for_neither(bench: Bench) -> None:
    for _ in range(FAILURES + 1):
        blame = Blame()
        bench.fail(blame, 0, said("500 x"))
        bench.fail(blame, 1, said("500 x"))
        blame.close()
    assert bench.failures == [0, 0, 0]
    assert all(state.circuit == "closed" and state.in_cooldown for state in bench.states[:2])


def test_other_words_count(bench: Bench) -> None:
    blame = Blame()
    bench.fail(blame, 0, said("500 x"))
    bench.fail(blame, 1, said("500 y"))
    blame.close()
    assert bench.failures == [1, 1, 0]


def test_one_backend_that_repeats_itself_is_no_witness(bench: Bench) -> None:
    blame = Blame()
    for _ in range(FAILURES):
        bench.fail(blame, 0, said("500 x"))
    blame.close()
    assert bench.states[0].circuit == "open"
    assert bench.states[0].reason == "backend_error"


def test_a_request_that_another_backend_serves_was_not_to_blame(bench: Bench) -> None:
    blame = Blame()
    bench.fail(blame, 0, said("500 x"))
    bench.fail(blame, 1, said("500 x"))
    assert bench.failures == [0, 0, 0]
    blame.another_got_further()
    assert bench.failures == [1, 1, 0]
    blame.close()
    assert bench.failures == [1, 1, 0]


def test_a_failure_without_words_counts_at_once(bench: Bench) -> None:
    blame = Blame()
    bench.fail(blame, 0, said(""))
    bench.fail(blame, 1, BackendTimeout("silent"))
    assert bench.failures == [1, 1, 0]


def test_a_trial_that_fails_in_words_opens_the_circuit_again(bench: Bench) -> None:
    state = bench.states[0]
    for _ in range(FAILURES):
        bench.fail(Blame(), 0, said(""))
    bench.now += 60.0
    assert state.circuit == "half_open"
    blame = Blame()
    bench.fail(blame, 0, said("500 x"))
    blame.another_got_further()
    assert state.circuit == "open"
