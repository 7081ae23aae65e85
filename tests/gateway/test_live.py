"""What is kept of the last hour, by a clock of the test's own."""

from __future__ import annotations

import pytest

from reverie.gateway.live import Live
from reverie.gateway.record import RequestRecord


def ended(live: Live, outcome: str = "ok", tokens: int = 1) -> None:
    record = RequestRecord("id", "/llm")
    live.began(record)
    record.outcome, record.completion_tokens = outcome, tokens  # type: ignore[assignment]
    live.ended(record)


def test_an_hour_is_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live()
    for minute in range(200):
        monkeypatch.setattr("time.time", lambda now=minute: 1_000_000 + 60.0 * now)
        ended(live)
    assert len(live.snapshot([])["minutes"]) == 60
    monkeypatch.setattr("time.time", lambda: 1_000_000 + 60.0 * 10_000)
    (minute,) = live.snapshot([])["minutes"]
    assert minute["requests"] == 0


def test_a_clock_that_is_set_back_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live()
    for now in (1_000_000.0, 990_000.0, 1_000_000.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        ended(live)
    (minute,) = live.snapshot([])["minutes"]
    assert minute["requests"] == 3


def test_what_is_kept_is_bounded_however_many_there_are() -> None:
    live = Live()
    for _ in range(5_000):
        ended(live, "failed")
    for number in range(2_000):
        live.began(RequestRecord(str(number), "/llm"))
    snapshot = live.snapshot([])
    assert snapshot["running"] == 2_000
    assert len(snapshot["requests"]) == 500
    assert len(snapshot["errors"]) == 50
    assert sum(minute["requests"] for minute in snapshot["minutes"]) == 5_000


def test_each_minute_has_its_own_times(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live()
    now = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    for took in (1.0, 2.0, 3.0):
        record = RequestRecord("id", "/llm")
        live.began(record)
        record.began, record.first_token, record.ended = 0.0, took / 2, took
        record.outcome = "ok"
        live.ended(record)
    now[0] += 60
    ended(live, "failed")
    for _ in range(2):  # the second is as the first
        first, second = live.snapshot([])["minutes"]
        assert (first["duration_p50"], first["duration_p95"]) == (2.0, 3.0)
        assert (first["ttft_p50"], first["ttft_p95"]) == (1.0, 1.5)
        assert (second["requests"], second["ttft_p50"], second["duration_p95"]) == (1, None, None)
    ended(live, "failed")
    assert live.snapshot([])["minutes"][1]["failed"] == 2
