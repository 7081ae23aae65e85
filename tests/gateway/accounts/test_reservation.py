"""A reservation is settled once, with what its request's record says."""

from __future__ import annotations

import asyncio
from typing import Any

from reverie.events import Delta, Finish, Prompt, Usage
from reverie.gateway.accounts.reservation import StoredReservation
from reverie.gateway.record import RequestRecord
from reverie.store.database.schema import MAX_COUNT
from reverie.store.reservations import Granted
from reverie.store.settlements import Amendment, Settlement
from tests.store.ledger_helpers import PRICE, request


class Closer:
    """Takes settlements, as the ledger does."""

    def __init__(self) -> None:
        self.taken: list[Settlement] = []

    def __call__(self, settlement: Settlement) -> asyncio.Task[None]:
        self.taken.append(settlement)
        return asyncio.create_task(asyncio.sleep(0))


def amended(*told: int, **fields: Any) -> list[tuple[int, int]]:
    """Tokens and cost that stay reserved as engines tell the prompt's size."""
    amendments: list[Amendment] = []
    record = RequestRecord("req_1", "/llm")
    granted = Granted(limited=True)
    record.on_prompt = StoredReservation(
        request(1, **fields), granted, record, Closer(), amendments.append
    ).on_prompt
    for tokens in told:
        record.saw([Prompt(tokens)])
    return [(one.reserved_tokens, one.reserved_cost) for one in amendments]


def reserved(**granted: Any) -> tuple[StoredReservation, RequestRecord, Closer]:
    record, closer = RequestRecord("req_1", "/llm"), Closer()
    reservation = StoredReservation(request(1), Granted(**granted), record, closer, print)
    return reservation, record, closer


async def test_a_complete_answer_is_settled_with_the_engines_counts() -> None:
    reservation, record, closer = reserved(subjects=("key:key_a",))
    record.backend = "b"
    record.saw([Delta("Hi"), Finish("length"), Usage(11, 3, 4)])
    await reservation.settle(b"whole")
    await reservation.settle(b"whole")
    reservation.end()
    [settled] = closer.taken
    assert (settled.id, settled.outcome, settled.backend) == (1, "length", "b")
    assert (settled.prompt_tokens, settled.completion_tokens, settled.cached_tokens) == (11, 3, 4)
    assert (settled.estimated, settled.answer) == (False, b"whole")
    assert settled.subjects == ("key:key_a",)
    assert settled.first_token_at is not None
    assert settled.first_token_at <= settled.ended_at


async def test_a_client_that_left_is_billed_for_what_was_delivered() -> None:
    reservation, record, closer = reserved()
    record.saw([Delta("Hi"), Delta(" you")])
    record.outcome = "cancelled"
    reservation.end()
    reservation.end()
    [settled] = closer.taken
    assert (settled.outcome, settled.estimated) == ("cancelled", True)
    assert (settled.prompt_tokens, settled.completion_tokens) == (40, 2)


async def test_a_request_of_which_nothing_was_delivered_used_nothing() -> None:
    reservation, record, closer = reserved()
    record.outcome = "refused"
    reservation.end()
    [settled] = closer.taken
    assert (settled.outcome, settled.first_token_at) == ("failed", None)
    assert (settled.prompt_tokens, settled.completion_tokens) == (0, 0)


async def test_no_count_is_larger_than_the_ledger_holds() -> None:
    """Each choice of an answer may have been told to be as large as that."""
    reservation, record, closer = reserved()
    record.saw([Delta("Hi", tokens=2**32)])
    so_far = reservation.checkpoint()
    assert so_far is not None
    assert so_far.completion_tokens == MAX_COUNT
    record.saw([Finish("stop"), Usage(2**32, 2**32, 2**32)])
    await reservation.settle()
    [settled] = closer.taken
    counts = (settled.prompt_tokens, settled.completion_tokens, settled.cached_tokens)
    assert counts == (MAX_COUNT, MAX_COUNT, MAX_COUNT)


async def test_there_is_a_checkpoint_only_where_something_was_delivered_since_the_last() -> None:
    reservation, record, _ = reserved()
    assert reservation.checkpoint() is None
    record.saw([Delta("Hi")])
    first = reservation.checkpoint()
    assert first is not None
    assert (first.row, first.prompt_tokens, first.completion_tokens) == (1, 40, 1)
    assert reservation.checkpoint() is None
    record.saw([Delta(" you")])
    second = reservation.checkpoint()
    assert second is not None
    assert second.completion_tokens == 2


def test_what_an_engine_does_not_need_for_the_prompt_is_given_back() -> None:
    sizes = {"tokens": 900, "prompt_tokens": 800, "max_tokens": 100, "cost": 18_000}
    assert amended(790, **sizes) == []  # not worth a write
    assert amended(200, **sizes) == [(300, 200 * PRICE.input + 100 * PRICE.output)]


def test_a_prompt_whose_size_is_told_again_and_again_is_written_once() -> None:
    sizes = {"tokens": 900, "prompt_tokens": 800, "max_tokens": 100, "cost": 18_000}
    assert len(amended(200, 200, 200, **sizes)) == 1


def test_what_is_told_of_a_prompt_never_sets_more_aside_than_there_was() -> None:
    """A context may hold less than the prompt's bound and ``max_tokens`` together."""
    sizes = {"tokens": 4096, "prompt_tokens": 3000, "max_tokens": 4000, "cost": 430_000}
    assert amended(2000, **sizes) == [(4096, 2000 * PRICE.input + 4000 * PRICE.output)]


def test_what_another_engine_needs_more_for_the_prompt_is_set_aside_again() -> None:
    """The first may have failed before its first token. They need not count alike."""
    sizes = {"tokens": 900, "prompt_tokens": 800, "max_tokens": 100, "cost": 18_000}
    again = [tokens for tokens, _ in amended(200, 780, 5000, **sizes)]
    assert again == [300, 880, 900]
