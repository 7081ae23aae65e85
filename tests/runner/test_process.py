"""One engine process: its environment. Its end is tested in ``test_supervisor``."""

from __future__ import annotations

from reverie.runner.process import child_environment


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
