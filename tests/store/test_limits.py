"""Limits hold in any 60 seconds, and what they tell a client is true."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.errors import InsufficientQuota, RateLimitExceeded, RateStatus
from reverie.store.limits import (
    SPAN,
    BudgetUsage,
    LimitUsage,
    RateLimits,
    WindowSums,
    period_begin,
    period_end,
    tightest,
)

NOW = 1_800_000_000.25


def limit_usage(limits: RateLimits, *buckets: tuple[int, int, int], running: int = 0) -> LimitUsage:
    sums = WindowSums(
        requests=sum(bucket[1] for bucket in buckets),
        tokens=sum(bucket[2] for bucket in buckets),
        last_request=max((bucket[0] for bucket in buckets if bucket[1]), default=0),
        last_token=max((bucket[0] for bucket in buckets if bucket[2]), default=0),
    )
    return LimitUsage("This key", limits, sums, running, lambda: buckets)


def admitted(usage: LimitUsage, tokens: int, now: float) -> bool:
    try:
        usage.admit(tokens, now)
    except RateLimitExceeded:
        return False
    usage.add(tokens, now)
    return True


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 50)), min_size=1, max_size=60),
)
def test_no_60_seconds_hold_more_than_the_limits(
    rpm: int, arrivals: list[tuple[float, int]]
) -> None:
    limits = RateLimits(rpm=rpm, tpm=120)
    counted: list[tuple[float, int]] = []
    buckets: dict[int, tuple[int, int]] = {}
    now = NOW
    for wait, tokens in arrivals:
        now += wait
        recent = [(s, *bucket) for s, bucket in buckets.items() if s > int(now) - SPAN]
        if admitted(limit_usage(limits, *recent), tokens, now):
            counted.append((now, tokens))
            requests, used = buckets.get(int(now), (0, 0))
            buckets[int(now)] = (requests + 1, used + tokens)
    for end, _ in counted:
        window = [(at, tokens) for at, tokens in counted if end - 60 <= at <= end]
        assert len(window) <= rpm
        assert sum(tokens for _, tokens in window) <= 120


def test_a_refusal_says_when_the_next_request_fits_and_then_it_does() -> None:
    second = int(NOW)
    used = [(second - 40, 1, 10), (second - 30, 1, 10)]
    with pytest.raises(RateLimitExceeded) as caught:
        limit_usage(RateLimits(rpm=2), *used).admit(10, NOW)
    wait = caught.value.retry_after
    assert wait is not None
    assert caught.value.headers["Retry-After"] == str(round(wait))
    later = NOW + wait
    left = [bucket for bucket in used if bucket[0] > int(later) - SPAN]
    assert admitted(limit_usage(RateLimits(rpm=2), *left), 10, later)
    earlier = later - 2
    left = [bucket for bucket in used if bucket[0] > int(earlier) - SPAN]
    assert not admitted(limit_usage(RateLimits(rpm=2), *left), 10, earlier)


def test_the_seconds_are_read_once_and_for_refusals_alone() -> None:
    read: list[str] = []

    def seconds() -> list[tuple[int, int, int]]:
        read.append("seconds")
        return [(int(NOW) - 20, 1, 10)]

    sums = WindowSums(requests=1, tokens=10, last_request=int(NOW) - 20, last_token=int(NOW) - 20)
    usage = LimitUsage("This key", RateLimits(rpm=2), sums, seconds=seconds)
    assert admitted(usage, 10, NOW)
    assert read == []
    for _ in range(2):
        with pytest.raises(RateLimitExceeded) as caught:
            usage.admit(10, NOW)
        assert caught.value.retry_after == 41
    assert read == ["seconds"]


def test_a_refusal_over_tokens_waits_until_enough_of_them_are_free() -> None:
    second = int(NOW)
    used = [(second - 50, 1, 30), (second - 20, 1, 60)]
    with pytest.raises(RateLimitExceeded) as caught:
        limit_usage(RateLimits(tpm=100), *used).admit(40, NOW)
    assert caught.value.retry_after == 11  # until the first 30 are gone
    with pytest.raises(RateLimitExceeded) as caught:
        limit_usage(RateLimits(tpm=100), *used).admit(80, NOW)
    assert caught.value.retry_after == 41


def test_a_request_larger_than_the_whole_limit_is_told_so_and_not_to_wait() -> None:
    with pytest.raises(RateLimitExceeded, match="this request alone") as caught:
        limit_usage(RateLimits(tpm=100)).admit(101, NOW)
    assert caught.value.param == "max_tokens"
    assert "Retry-After" not in caught.value.headers
    assert caught.value.headers["x-should-retry"] == "false"


def test_requests_at_once_are_bounded() -> None:
    limits = RateLimits(concurrency=2)
    assert admitted(limit_usage(limits, running=1), 1, NOW)
    with pytest.raises(RateLimitExceeded, match="2 requests at once"):
        limit_usage(limits, running=2).admit(1, NOW)


def test_the_headers_tell_what_is_left_and_when_all_is_back() -> None:
    second = int(NOW)
    status = limit_usage(RateLimits(rpm=5, tpm=100), (second - 10, 2, 30), (second, 1, 20)).status(
        NOW
    )
    assert status.headers == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "60.8s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "50",
        "x-ratelimit-reset-tokens": "60.8s",
    }


def test_of_several_limits_a_client_is_told_the_tightest() -> None:
    one = RateStatus(limit_requests=10, remaining_requests=9)
    other = RateStatus(
        limit_requests=5, remaining_requests=1, limit_tokens=100, remaining_tokens=70
    )
    told = tightest([one, other])
    assert told is not None
    assert (told.limit_requests, told.remaining_requests, told.remaining_tokens) == (5, 1, 70)
    assert tightest([]) is None


def test_a_budget_is_never_exceeded_and_says_when_it_begins_anew() -> None:
    now = datetime(2026, 12, 31, 23, 0, tzinfo=UTC).timestamp()
    usage = BudgetUsage(budget=100, currency="USD", period="month", spent=60)
    usage.admit(40, now)
    with pytest.raises(InsufficientQuota) as caught:
        usage.admit(41, now)
    assert caught.value.headers["Retry-After"] == "3600"
    with pytest.raises(InsufficientQuota, match="this request alone"):
        usage.admit(101, now)
    usage.spent = 100
    with pytest.raises(InsufficientQuota):
        usage.admit(0, now)


def test_periods_are_days_and_months_of_utc() -> None:
    now = datetime(2026, 2, 28, 13, 30, tzinfo=UTC).timestamp()
    day = datetime(2026, 2, 28, tzinfo=UTC)
    assert period_begin("day", now) == day.timestamp() // 86400
    assert period_begin("month", now) == day.replace(day=1).timestamp() // 86400
    assert period_end("day", now) == datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    assert period_end("month", now) == datetime(2026, 3, 1, tzinfo=UTC).timestamp()
