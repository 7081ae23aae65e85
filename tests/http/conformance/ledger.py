"""What the ledger has of each request."""

from __future__ import annotations

from typing import NamedTuple

from reverie.store.database import schema
from reverie.store.database.engine import Store
from tests.http.conformance.readers.reading import Used


class Row(NamedTuple):
    outcome: str
    used: Used


def rows(store: Store) -> list[Row]:
    """The settled requests, oldest first."""
    ledger = schema.ledger
    settled = ledger.select().where(ledger.c.outcome.is_not(None)).order_by(ledger.c.id)
    with store.read() as connection:
        return [
            Row(row.outcome, Used(row.prompt_tokens, row.completion_tokens, row.cached_tokens))
            for row in connection.execute(settled)
        ]


def as_told(used: Used, by: Used | None) -> Used:
    """The ledger's count as far as the dialect's usage tells it."""
    return used._replace(cached=None) if by is not None and by.cached is None else used
