"""How threads and a batch are chosen of what was measured. A real engine: ``tests/faults``."""

from __future__ import annotations

from reverie.backends.tuning import Speed, choose_batch, choose_threads, thread_candidates


def speed(
    threads: int = 2, batch: int = 64, *, prompt: float = 100, one: float = 100, gap: float = 0.1
) -> Speed:
    return Speed(threads, batch, prompt, one, one, gap)


def test_all_cores_are_tried_and_fewer() -> None:
    assert thread_candidates(1) == [1]
    assert thread_candidates(2) == [2, 1]
    assert thread_candidates(16) == [16, 15, 8]


def test_the_fastest_threads_are_chosen_but_no_more_than_help() -> None:
    assert choose_threads([speed(4), speed(3, one=70)])[0].threads == 4
    assert choose_threads([speed(4), speed(3, one=99)])[0].threads == 3
    _, reason = choose_threads([speed(4), speed(3, prompt=50, one=50)])
    assert reason == "threads: 4; 3 came to 50% of its speed"


def test_the_fastest_batch_is_chosen_of_those_that_hold_nobody_up() -> None:
    batches = [
        speed(batch=32, prompt=80),
        speed(batch=64, prompt=100),
        speed(batch=128, prompt=101, gap=0.2),
        speed(batch=512, prompt=200, gap=0.9),
    ]
    assert choose_batch(batches)[0].batch == 64  # 128 is no faster
    assert choose_batch(batches[:1] + batches[3:])[0].batch == 32


def test_where_all_hold_others_up_the_least_bad_batch_is_chosen_and_the_reason_says_so() -> None:
    chosen, reason = choose_batch([speed(batch=32, gap=0.8), speed(batch=64, gap=1.9)])
    assert chosen.batch == 32
    assert "by 0.80 s; none stays within 0.2 s" in reason
