"""An answer is kept exactly if its request was completed, and given again to the same request."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import update

from reverie.errors import (
    AnswerNotKept,
    IdempotencyKeyReused,
    RequestInProgress,
    StreamNotResumable,
)
from reverie.store import answers
from reverie.store.answers import ANSWERS_KEPT_MS, Claim, StoredAnswer
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.gateways import reap_dead, register
from reverie.store.reservations import Granted, ReservationRequest
from reverie.store.settlements import LedgerOutcome, Settlement, close_lost
from reverie.times import now_ms
from tests.store.ledger_helpers import GATEWAY, ask, close, make_key, request, rows


@pytest.fixture(autouse=True)
def key(store: Store) -> None:
    make_key(store)
    make_key(store, "key_b")


def claiming(
    id: int, *, fingerprint: bytes = b"f", after: int = 0, key: str = "key_a"
) -> ReservationRequest:
    return request(id, key, claim=Claim("once", fingerprint, after))


def ended(id: int, outcome: LedgerOutcome = "ok", answer: bytes | None = b"said") -> Settlement:
    return Settlement(id=id, outcome=outcome, ended_at=now_ms(), answer=answer)


def said(store: Store, row: int) -> bytes | None:
    with store.read() as connection:
        return answers.body(connection, row)


def asked(store: Store, wanted: ReservationRequest) -> Any:
    (result,) = ask(store, wanted)
    return result


def test_a_completed_answer_is_given_again_and_opens_no_row(store: Store) -> None:
    asked(store, claiming(1))
    close(store, ended(1))
    assert asked(store, claiming(2)) == StoredAnswer(1, b"f")
    assert said(store, 1) == b"said"
    assert [row.id for row in rows(store)] == [1]


def test_while_it_runs_the_same_request_waits(store: Store) -> None:
    first, second = ask(store, claiming(1), claiming(2))
    assert isinstance(first, Granted)
    assert isinstance(second, RequestInProgress)
    assert isinstance(asked(store, claiming(3)), RequestInProgress)


def test_an_answer_whose_gateway_was_given_up_is_given_again_once_it_turns_up(
    store: Store,
) -> None:
    asked(store, claiming(1))
    with store.write() as connection:
        close_lost(connection, GATEWAY, now_ms())
    close(store, ended(1))
    assert asked(store, claiming(2)) == StoredAnswer(1, b"f")


def test_another_request_may_not_use_the_key_running_or_done(store: Store) -> None:
    asked(store, claiming(1))
    assert isinstance(asked(store, claiming(2, fingerprint=b"g")), IdempotencyKeyReused)
    close(store, ended(1))
    assert isinstance(asked(store, claiming(3, fingerprint=b"g")), IdempotencyKeyReused)


def test_the_idempotency_key_is_an_api_keys_own_affair(store: Store) -> None:
    asked(store, claiming(1))
    assert isinstance(asked(store, claiming(2, key="key_b", fingerprint=b"g")), Granted)


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_a_request_that_was_not_completed_may_be_sent_again(
    store: Store, outcome: LedgerOutcome
) -> None:
    asked(store, claiming(1))
    close(store, ended(1, outcome))
    assert isinstance(asked(store, claiming(2, fingerprint=b"g")), Granted)


@pytest.mark.parametrize("outcome", ["failed", "cancelled", "lost"])
def test_a_stream_that_is_not_the_first_of_its_claim_counts_from_a_number_of_its_own(
    store: Store, outcome: LedgerOutcome
) -> None:
    assert asked(store, claiming(1)).base == 0
    close(store, ended(1, outcome))
    begun = now_ms()
    second = asked(store, claiming(2)).base
    assert begun * 1000 <= second <= (now_ms() + 1) * 1000
    close(store, ended(2, outcome))
    time.sleep(0.002)
    assert asked(store, claiming(3)).base > second
    assert asked(store, claiming(4, key="key_b")).base == 0


def test_a_stream_whose_row_may_have_been_opened_before_counts_from_a_number_of_its_own(
    store: Store,
) -> None:
    asked(store, claiming(1))
    (granted,) = ask(store, claiming(1), is_retry=True)
    assert isinstance(granted, Granted)
    assert granted.base > 0


def test_a_claim_of_a_gateway_that_died_is_free_again(store: Store) -> None:
    asked(store, claiming(1))
    with store.write() as connection:
        close_lost(connection, GATEWAY, now_ms())
    assert isinstance(asked(store, claiming(2)), Granted)
    close(store, ended(1, answer=b"late"))  # the dead one's journal turns up
    close(store, ended(2, answer=b"new"))
    assert asked(store, claiming(3)) == StoredAnswer(2, b"f")
    assert said(store, 2) == b"new"


def test_an_answer_too_large_to_be_kept_is_not_generated_again(store: Store) -> None:
    asked(store, claiming(1))
    close(store, ended(1, answer=None))
    assert isinstance(asked(store, claiming(2)), AnswerNotKept)


def test_a_stream_that_is_no_more_is_not_begun_anew_in_its_middle(store: Store) -> None:
    assert isinstance(asked(store, claiming(1, after=3)), StreamNotResumable)
    assert rows(store) == []


def test_answers_are_kept_for_a_day(store: Store) -> None:
    asked(store, claiming(1))
    close(store, ended(1))
    with store.write() as connection:
        connection.execute(
            update(schema.answers).values(created_at=now_ms() - ANSWERS_KEPT_MS - 1000)
        )
    again = asked(store, claiming(2, fingerprint=b"g"))
    assert isinstance(again, Granted)
    assert again.base > 0
    close(store, ended(2))
    with store.write() as connection:
        connection.execute(
            update(schema.answers).values(created_at=now_ms() - ANSWERS_KEPT_MS - 1000)
        )
        reap_dead(connection, register(connection, now_ms()), now_ms())
    assert rows(store, "answers") == []


def test_of_too_many_answers_the_oldest_go_as_if_they_had_expired(store: Store) -> None:
    with store.read() as connection:
        assert answers.evictable_until(connection, 0) is None
    for number in range(1, 6):
        asked(store, request(number, claim=Claim(f"key-{number}", b"f")))
        close(store, ended(number, answer=b"x" * 100))
        time.sleep(0.002)
    with store.write() as connection:
        assert answers.evictable_until(connection, 500) is None
        until = answers.evictable_until(connection, 299)
        assert until is not None
        answers.evict(connection, until)
        assert answers.evictable_until(connection, 299) is None
    assert [said(store, number) for number in range(1, 6)] == [None] * 3 + [b"x" * 100] * 2
    again = asked(store, request(6, claim=Claim("key-3", b"f")))
    assert isinstance(again, Granted)
    assert again.base > 0
    assert asked(store, request(7, claim=Claim("key-4", b"f"))) == StoredAnswer(4, b"f")
