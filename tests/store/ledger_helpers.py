"""Helpers: keys, requests, reservations and settlements for tests of the ledger."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from reverie.money import Price
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.keys import Key
from reverie.store.limits import RateLimits
from reverie.store.reservations import ReservationRequest, Result, reserve
from reverie.store.settlements import LedgerOutcome, Settlement, settle
from reverie.times import now_ms

PRICE = Price(input=10, cached=1, output=100, currency="USD")
GATEWAY = 7


def make_key(store: Store, id: str = "key_a", **fields: Any) -> Key:
    """Put a key into the store; its secret is its id."""
    key = Key(id=id, name=f"{id}'s", created_at=now_ms(), **fields)
    with store.write() as connection:
        keys.create(connection, key, id)
    return key


def request(id: int, key: str = "key_a", **fields: Any) -> ReservationRequest:
    given: dict[str, Any] = {
        "request_id": f"req_{id}",
        "key_id": key,
        "stored": True,
        "model": "m",
        "names": ("m",),
        "tokens": 100,
        "prompt_tokens": 40,
        "max_tokens": 60,
        "prompt_estimate": 40,
        "cost": 0,
        "price": PRICE,
    }
    return ReservationRequest(id=id, **{**given, **fields})


def ask(store: Store, *requests: ReservationRequest, is_retry: bool = False) -> list[Result]:
    """Reserve, in one transaction."""
    with store.write() as connection:
        return reserve(connection, requests, GATEWAY, is_retry=is_retry)


def settled(
    id: int, outcome: LedgerOutcome = "ok", prompt: int = 40, completion: int = 10
) -> Settlement:
    return Settlement(
        id=id,
        outcome=outcome,
        prompt_tokens=prompt,
        completion_tokens=completion,
        ended_at=now_ms(),
    )


def close(store: Store, *settlements: Settlement) -> None:
    with store.write() as connection:
        settle(connection, settlements)


def rows(store: Store, table: str = "ledger") -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(select(schema.metadata.tables[table])))


LIMITED = RateLimits(rpm=3, tpm=1000, concurrency=2)
