"""Stored answers are found by their claims, and are never many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reverie.gateway.accounts.kept_answers import AnswerBound, Claim, KeptAnswers, StoredAnswer
from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from reverie.store.settlements import Settlement
from reverie.times import now_ms
from tests.store.ledger_helpers import ask, close, make_key, request

MIB = 1024 * 1024


@pytest.fixture
def bounded(store_url: str, store: Store) -> Iterator[Store]:
    """The store, which may keep 1 MiB of answers."""
    opened = Store(StoreSettings(url=store_url, timeout=10, kept_answers_mib=1))
    make_key(opened)
    yield opened
    opened.close()


def answer(store: Store, row: int, size: int) -> StoredAnswer:
    """Have a request answered whose claim is named after its row."""
    ask(store, request(row, claim=Claim(f"claim-{row}", b"f")))
    close(store, Settlement(id=row, outcome="ok", ended_at=now_ms(), answer=b"x" * size))
    return StoredAnswer(row, b"f")


async def test_an_answer_is_found_by_the_claim_of_its_api_key(bounded: Store) -> None:
    stored = answer(bounded, 1, 10)
    kept = KeptAnswers(bounded)
    claim = Claim("claim-1", b"f")
    assert await kept.find("key_a", claim) == stored
    assert await kept.body(stored) == b"x" * 10
    assert await kept.find("key_b", claim) is None
    assert await kept.find("key_a", Claim("claim-1", b"other")) is None
    assert await kept.body(StoredAnswer(404, b"f")) is None


async def test_whoever_waits_for_another_gateway_s_answer_asks_without_writing(
    bounded: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times a second for each that waits: as transactions that write, they would queue."""
    kept = KeptAnswers(bounded)
    ask(bounded, request(1, claim=Claim("claim-1", b"f")))

    def write() -> None:
        raise AssertionError("a waiting client wrote")

    with monkeypatch.context() as patched:
        patched.setattr(bounded, "write", write)
        assert await kept.is_awaited("key_a", Claim("claim-1", b"f"))
        assert not await kept.is_awaited("key_a", Claim("claim-2", b"f"))
    close(bounded, Settlement(id=1, outcome="ok", ended_at=now_ms(), answer=b"x"))
    assert not await kept.is_awaited("key_a", Claim("claim-1", b"f"))


async def test_without_a_store_there_are_no_answers() -> None:
    assert await KeptAnswers(None).find("key_a", Claim("claim-1", b"f")) is None


async def test_the_oldest_answers_go_where_all_together_are_too_large(bounded: Store) -> None:
    bound = AnswerBound(bounded)
    rows = [answer(bounded, row, MIB // 2) for row in (1, 2)]
    bound.enforce()
    await bound.stop()
    kept = KeptAnswers(bounded)
    assert [await kept.body(row) is not None for row in rows] == [True, True]

    rows.append(answer(bounded, 3, MIB // 2))
    bound.added(bytes(MIB // 2))
    bound.enforce()
    await bound.stop()
    assert [await kept.body(row) is not None for row in rows] == [False, True, True]


async def test_they_are_looked_at_only_once_enough_was_added(bounded: Store) -> None:
    bound = AnswerBound(bounded)
    bound.enforce()
    await bound.stop()
    rows = [answer(bounded, row, MIB // 2) for row in (1, 2, 3)]
    bound.added(bytes(MIB // 17))
    bound.enforce()
    await bound.stop()
    kept = KeptAnswers(bounded)
    assert all([await kept.body(row) is not None for row in rows])
