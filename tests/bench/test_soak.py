"""The soak finds what is planted, and a short one finds nothing in the ledger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import soak
from rich.console import Console
from soaking import dialects, logs, samples, texts
from soaking.book import Answer, Book, Limits, Row
from soaking.dialects import Ask, Told
from soaking.faults import ENGINE, STORE, FaultLog
from soaking.samples import Sample
from soaking.trend import trend

ASK = Ask("m", story=7, words=5, max_tokens=5)
PRICES = {"price_input": 10, "price_cached": 5, "price_output": 20}


def row(**changes: Any) -> Row:
    """A whole answer of 10 and 5 tokens, as it must be written."""
    usual = {
        "id": 1,
        "request_id": "a",
        "key": "alice",
        "model": "m",
        "idempotency_key": None,
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "completion_tokens": 5,
        "cost": 200,
        **PRICES,
        "outcome": "ok",
        "created_at": 1_000,
        "ended_at": 2_000,
    }
    return Row(**{**usual, **changes})


def whole(prompt: int = 10, completion: int = 5) -> Answer:
    return Answer(True, False, completion, prompt, completion)


def differences(answers: list[Answer], rows: list[Row], *, retries: bool = False) -> list[str]:
    book = Book({})
    work = book.begin("a", "alice", 10, 5, retries=retries)
    work.answers += answers
    work.done_at = 0.0
    book.take(rows)
    book.close()
    return book.differences


# The ledger -----------------------------------------------------------------------------------


def test_an_answer_that_is_billed_as_it_was_told_makes_no_difference() -> None:
    assert differences([whole()], [row()]) == []


@pytest.mark.parametrize(
    ("answers", "rows", "found"),
    [
        ([whole()], [], "answered in full"),
        ([whole()], [row(outcome="failed", cost=0)], "answered in full"),
        ([whole()], [row(completion_tokens=4, cost=180)], "5 completion tokens were told"),
        ([whole()], [row(prompt_tokens=11, cost=210)], "10 prompt tokens were told"),
        ([whole()], [row(cost=199)], "it costs 199"),
        ([whole()], [row(key="bob")], "billed to bob"),
        ([whole()], [row(), row(id=2)], "billed 2 times"),
        ([whole()], [row(outcome=None)], "open"),
        ([Answer(False, True, 0)], [row()], "was refused"),
        (
            [Answer(False, False, 3)],
            [row(completion_tokens=2, cost=140, outcome="cancelled")],
            "3 t",
        ),
        ([Answer(False, False, 3)], [row(outcome="cancelled", completion_tokens=6)], "can be"),
        ([Answer(False, False, 0)], [row(outcome="lost")], "it costs 200"),
    ],
)
def test_what_the_ledger_says_otherwise_is_found(
    answers: list[Answer], rows: list[Row], found: str
) -> None:
    assert any(found in one for one in differences(answers, rows))


def test_a_row_that_nobody_asked_for_is_found() -> None:
    assert "nobody asked" in differences([], [row(request_id="b")])[0]


def test_retries_may_have_several_rows_of_which_one_is_billed() -> None:
    rows = [
        row(id=number, request_id=f"try {number}", idempotency_key="a", **changes)
        for number, changes in enumerate(({"outcome": "failed", "cost": 0}, {}), 1)
    ]
    left = Answer(False, False, 2)
    assert differences([left, whole(), whole()], rows, retries=True) == []
    assert differences([whole()], [*rows, rows[1]._replace(id=3)], retries=True) != []


def test_a_row_is_judged_as_it_is_in_the_end() -> None:
    book = Book({})
    work = book.begin("a", "alice", 10, 5)
    work.answers.append(whole())
    work.done_at = 0.0
    book.take([row(outcome=None, completion_tokens=0, cost=0)])
    book.judge(1.0)
    assert book.unsettled() == [1]
    book.take(
        [row(outcome="lost", completion_tokens=0, cost=0)]
    )  # whose settlement is in a journal
    book.judge(1.0)
    assert book.unsettled() == [1]
    book.take([row()])
    book.judge(1.0)
    assert (book.unsettled(), book.differences, len(book)) == ([], [], 0)
    assert book.sums["alice"] == (1, 15, 15)


@pytest.mark.parametrize(
    ("limits", "used"),
    [
        (Limits(rpm=2), "3 requests in a minute"),
        (Limits(tpm=44), "45 tokens in a minute"),
        (Limits(concurrency=1), "2 requests at once"),
        (Limits(budget=799), "800 nano-units in a day"),
        (Limits(rpm=3, tpm=45, concurrency=2, budget=800), ""),
    ],
)
def test_a_limit_that_was_exceeded_is_found(limits: Limits, used: str) -> None:
    moments = ((0, 30_000), (20_000, 40_000), (59_999, 60_001), (80_000, 80_001))
    book = Book({"alice": limits})
    for number, (created, ended) in enumerate(moments):
        work = book.begin(f"{number}", "alice", 10, 5)
        work.answers.append(whole())
        times = {"created_at": created, "ended_at": ended}
        book.take([row(id=number, request_id=f"{number}", **times)])
    book.close()
    assert book.differences == []
    found = book.limits_exceeded()
    assert [used in one for one in found] == ([True] if used else [])


# Answers and faults ---------------------------------------------------------------------------


def told(text: str, *, finish: str = "stop", tokens: int | None = 5, ended: bool = True) -> Told:
    answer = Told()
    answer.texts[0] = text
    answer.finish, answer.completion_tokens, answer.ended = finish, tokens, ended
    return answer


def test_an_answer_must_be_whole_to_the_letter_or_a_beginning() -> None:
    text = texts.text(5, 7)
    assert told(text).mistake(ASK) is None
    assert told(text[:-3], ended=False).mistake(ASK) is None
    assert "isn't" in str(told(text[:-3]).mistake(ASK))
    assert "isn't" in str(told("x" + text[1:], ended=False).mistake(ASK))
    assert "isn't" in str(told(text + text[:4], ended=False).mistake(ASK))
    assert "ended as" in str(told(text, finish="length").mistake(ASK))
    assert "was told as 6" in str(told(text, tokens=6).mistake(ASK))


def test_a_stream_is_read_in_each_dialect_that_has_a_word_for_errors() -> None:
    for dialect, event in (
        (dialects.CHAT, {"choices": [], "error": {"code": "backend_error"}}),
        (dialects.MESSAGES, {"type": "error", "error": {"type": "api_error"}}),
        (dialects.OLLAMA, {"error": "A sentence."}),
    ):
        answer = Told()
        dialect.read(event, answer)
        assert answer.error
        assert not answer.ended


async def test_only_a_fault_of_its_time_and_kind_and_place_explains_an_error(
    tmp_path: Path,
) -> None:
    log = FaultLog(tmp_path / "faults.log")
    began = time.monotonic()
    assert not log.explains("503", began, "one", continuable=False)
    async with log.window("store stopped", STORE):
        assert log.explains("503", began, "one", continuable=True)
        assert not log.explains("502", began, "one", continuable=False)
    assert log.explains("503", began, "two", continuable=True)
    assert not log.explains("503", began + 3600, "two", continuable=True)
    async with log.window("engine killed", ENGINE):
        assert log.explains("502", began, "one", continuable=False)
        assert not log.explains("502", began, "one", continuable=True)
    assert (tmp_path / "faults.log").read_text().count("\n") == 2


def test_a_fault_of_reveries_own_in_the_log_is_found() -> None:
    fine = '{"level":"info","message":"request"}\n{"level":"error","message":"the store fails"}\n'
    own = '{"level":"error","message":"a request failed in Reverie itself"}\n'
    assert logs.faults(fine.splitlines()) == []
    assert logs.faults([own]) == [own.strip()]
    assert logs.faults(["Traceback (most recent call last):\n"])


# Growth ---------------------------------------------------------------------------------------


def life(mib_per_request: float, *, requests: int = 50_000, noise: float = 1.0) -> list[Sample]:
    return [
        Sample(
            seconds=number,
            process="gateway",
            pid=1,
            requests=requests * number / 200,
            mib=90 + mib_per_request * requests * number / 200 + noise * (number % 7 - 3) / 3,
            descriptors=40 + number % 5,
            threads=9,
        )
        for number in range(200)
    ]


def test_a_leak_is_told_from_noise() -> None:
    (flat,) = samples.growths(life(0))
    (leaking,) = samples.growths(life(5e-5))
    assert flat.findings() == []
    assert "MiB per 100,000 requests" in leaking.findings()[0]


def test_descriptors_and_threads_that_are_never_given_back_are_found() -> None:
    leaking = [
        one._replace(descriptors=40 + number // 4, threads=9 + number // 20)
        for number, one in enumerate(life(0))
    ]
    (growth,) = samples.growths(leaking)
    assert [what.rpartition(", of")[0].split()[-1] for what in growth.findings()] == [
        "descriptors",
        "threads",
    ]


def test_what_ran_for_a_short_while_or_has_ended_is_not_judged() -> None:
    assert not samples.growths(life(5e-4, requests=1_000))[0].findings()
    assert trend([1.0] * 5, [2.0] * 5) is None
    assert trend([1.0] * 50, [2.0] * 50) is None
    ended = [one._replace(pid=2, seconds=one.seconds - 100) for one in life(0)]
    assert [growth.process for growth in samples.growths([*ended, *life(0)])] == ["gateway"]


def test_samples_are_kept_as_they_were(tmp_path: Path) -> None:
    samples.write(tmp_path / "samples.csv", life(0)[:3])
    assert samples.read(tmp_path / "samples.csv") == life(0)[:3]


# All of it ------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_short_soak_has_true_accounts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = ("engine breaks off", "reload by signal", "store stopped")
    plan = soak.Plan(seconds=4, rate=10, every=0.5, sample=0.5, faults=faults)
    report = await soak.soak(plan, tmp_path, Console(width=140))
    soak.show(report, Console(width=140))
    shown = capsys.readouterr().out
    assert report.book.differences == [], shown
    assert report.crowd.untrue == [], shown
    assert report.crowd.ends["whole"] > 10
    assert report.faults.counts.total() >= 2
    assert sum(sums.told for sums in report.book.sums.values()) > 100
    assert "Ledger differences: 0" in shown
    assert (tmp_path / "samples.csv").stat().st_size > 0
