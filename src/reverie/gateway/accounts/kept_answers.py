"""The stored answers of requests that carried an ``Idempotency-Key``: read, and bounded in size."""

from __future__ import annotations

import asyncio

from reverie import background
from reverie.errors import AccountsUnavailable, RequestInProgress, ReverieError, StoreFailure
from reverie.store import answers
from reverie.store.answers import ANSWERS_KEPT_MS
from reverie.store.answers import Claim as Claim
from reverie.store.answers import StoredAnswer as StoredAnswer
from reverie.store.database.coordination import clock_ms
from reverie.store.database.engine import Store

_CHECKS = 16
"""How often the size of all answers is checked while as many bytes are added as may be kept."""


class KeptAnswers:
    """Reads answers from the store. Without a store there are none."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def find(self, key_id: str, claim: Claim) -> StoredAnswer | None:
        """The answer that was stored for a claim; None if there is none.

        Raises:
            AccountsUnavailable: the store can't be read now.
        """
        try:
            return await asyncio.to_thread(self._find, key_id, claim)
        except StoreFailure:
            raise AccountsUnavailable from None

    async def is_awaited(self, key_id: str, claim: Claim) -> bool:
        """True while a gateway works on the answer to a claim; also while the store is down.

        It only reads, so that it may be asked often.
        """
        try:
            found = await asyncio.to_thread(self._look_up, key_id, claim)
        except StoreFailure:
            return True
        return isinstance(found, RequestInProgress)

    async def body(self, answer: StoredAnswer) -> bytes | None:
        """The bytes of a stored answer; None if it was evicted meanwhile.

        Raises:
            AccountsUnavailable: the store can't be read now.
        """
        try:
            return await asyncio.to_thread(self._body, answer.row)
        except StoreFailure:
            raise AccountsUnavailable from None

    def _find(self, key_id: str, claim: Claim) -> StoredAnswer | None:
        found = self._look_up(key_id, claim)
        return found if isinstance(found, StoredAnswer) else None

    def _look_up(self, key_id: str, claim: Claim) -> StoredAnswer | ReverieError | None:
        if self._store is None:
            return None
        place = (key_id, claim.key)
        with self._store.read() as connection:
            oldest = clock_ms(connection) - ANSWERS_KEPT_MS
            return answers.find(connection, {place: claim}, oldest).get(place)

    def _body(self, row: int) -> bytes | None:
        assert self._store is not None
        with self._store.read() as connection:
            return answers.body(connection, row)


class AnswerBound:
    """Keeps the stored answers below ``store.kept_answers_mib``, by evicting the oldest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limit = store.settings.kept_answers_mib * 1024 * 1024
        self._added = self._limit  # so that the first check counts what is stored already
        self._evicting: asyncio.Task[None] | None = None

    def added(self, *answers: bytes | None) -> None:
        """Count answers that are in the store now.

        Not earlier: a check that runs before they are stored would miss them and count anew.
        """
        self._added += sum(len(answer or b"") for answer in answers)

    def enforce(self) -> None:
        """Check the size of all answers in the background, once enough bytes were added."""
        if self._added * _CHECKS < self._limit or self._evicting is not None:
            return
        self._added = 0
        self._evicting = background.once("answer eviction", self._evict_in_thread)
        self._evicting.add_done_callback(self._evicted)

    async def stop(self) -> None:
        """Wait for the check that runs."""
        if self._evicting is not None:
            await asyncio.wait({self._evicting})

    async def _evict_in_thread(self) -> None:
        try:
            await asyncio.to_thread(self._evict)
        except BaseException:
            self._added = self._limit  # check again
            raise

    def _evict(self) -> None:
        with self._store.read() as connection:
            until = answers.evictable_until(connection, self._limit)
        if until is not None:
            with self._store.write() as connection:
                answers.evict(connection, until)

    def _evicted(self, task: asyncio.Task[None]) -> None:
        self._evicting = None
