"""``Idempotency-Key`` and ``Last-Event-ID`` as a request carries them."""

from __future__ import annotations

import pytest

from reverie.errors import InvalidHeader
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.idempotency.claim import claim_of


def claim(*headers: tuple[str, str], stream: bool = True, body: bytes = b"{}") -> Claim | None:
    scope = {"headers": [(name.encode(), value.encode()) for name, value in headers]}
    return claim_of(scope, "livepeer", body, stream=stream)


def test_without_a_key_there_is_no_claim() -> None:
    assert claim() is None
    assert claim(("last-event-id", "7")) is None


def test_a_stream_resumes_after_the_last_event_that_arrived() -> None:
    resumed = claim(("idempotency-key", "k"), ("last-event-id", "7"))
    assert resumed is not None
    assert (resumed.key, resumed.after) == ("k", 7)


def test_an_answer_that_is_no_stream_is_always_given_whole() -> None:
    whole = claim(("idempotency-key", "k"), ("last-event-id", "7"), stream=False)
    assert whole is not None
    assert whole.after == 0


def test_only_the_same_body_in_the_same_dialect_is_the_same_request() -> None:
    same = [claim(("idempotency-key", "k"), body=body) for body in (b"{}", b"{}", b"{ }")]
    scope = {"headers": [(b"idempotency-key", b"k")]}
    other = claim_of(scope, "openai", b"{}", stream=True)
    prints = [one.fingerprint for one in (*same, other) if one is not None]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("headers", "header"),
    [
        ([("idempotency-key", "")], "Idempotency-Key"),
        ([("idempotency-key", "a b")], "Idempotency-Key"),
        ([("idempotency-key", "k" * 256)], "Idempotency-Key"),
        ([("idempotency-key", "a"), ("idempotency-key", "a")], "Idempotency-Key"),
        ([("idempotency-key", "k"), ("last-event-id", "x")], "Last-Event-ID"),
        ([("idempotency-key", "k"), ("last-event-id", "-1")], "Last-Event-ID"),
        ([("idempotency-key", "k"), ("last-event-id", "1" * 17)], "Last-Event-ID"),
    ],
)
def test_a_malformed_header_is_named(headers: list[tuple[str, str]], header: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        claim(*headers)
    assert caught.value.param == header
