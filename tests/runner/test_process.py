"""One engine process: its environment. Its end is tested in ``test_supervisor``."""

from __future__ import annotations

import pytest

from reverie.runner.process import child_environment, how_it_ended


def test_the_child_gets_the_variables_that_drivers_need_and_no_others() -> None:
    given = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/lib",
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_TOKEN": "hidden",
        "REVERIE_API_KEYS": "hidden",
        "SOME_URL": "postgresql://user:hidden@db/x",
        "LLAMA_ARG_CTX_SIZE": "1",
    }
    handed_on = child_environment(given)
    assert {"PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"} < handed_on.keys()
    assert handed_on.keys().isdisjoint(
        {"HF_TOKEN", "REVERIE_API_KEYS", "SOME_URL", "LLAMA_ARG_CTX_SIZE"}
    )


def test_idle_threads_sleep_soon_unless_the_operator_says_otherwise() -> None:
    assert child_environment({})["GOMP_SPINCOUNT"] == "1000"
    assert child_environment({"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize(
    ("status", "how"), [(0, "status 0"), (3, "status 3"), (-9, "SIGKILL"), (-40, "signal 40")]
)
def test_how_a_process_ended_is_told_by_its_status_or_its_signal(status: int, how: str) -> None:
    assert how_it_ended(status) == how
