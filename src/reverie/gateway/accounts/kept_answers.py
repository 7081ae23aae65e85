"""The stored answers of requests that carried an ``Idempotency-Key``, as ``http`` reads them."""

from __future__ import annotations

import asyncio

from reverie.errors import AccountsUnavailable
from reverie.store import answers
from reverie.store.answers import Claim as Claim
from reverie.store.answers import StoredAnswer as StoredAnswer
from reverie.store.database.engine import Store, StoreFailure
from reverie.store.reserve import ANSWERS_KEPT_MS, clock


class KeptAnswers:
    """Reads answers from the store. Without a store there are none."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def find(self, key_id: str, claim: Claim) -> StoredAnswer | None:
        """The answer that was stored for a claim; None if there is none, or the store is down."""
        try:
            return await asyncio.to_thread(self._find, key_id, claim)
        except StoreFailure:
            return None

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
        if self._store is None:
            return None
        place = (key_id, claim.key)
        with self._store.read() as connection:
            oldest = int(clock(connection) * 1000) - ANSWERS_KEPT_MS
            found = answers.find(connection, {place: claim}, oldest).get(place)
        return found if isinstance(found, StoredAnswer) else None

    def _body(self, row: int) -> bytes | None:
        assert self._store is not None
        with self._store.read() as connection:
            return answers.body(connection, row)
