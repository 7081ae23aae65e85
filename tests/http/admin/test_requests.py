"""The last requests, over HTTP."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from sqlalchemy import insert, update

from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.times import now_ms
from tests.http.admin.harness import ON_SQLITE, REQUESTS, error_of, make
from tests.store.ledger_helpers import ask, close, request, settled

FIRST = 7 * 2**40


@pytest.fixture
async def alice(client: httpx2.AsyncClient, store: Store) -> str:
    """A key with four requests, of which two failed and the last runs; another caller has one."""
    id: str = (await make(client, tags=["prod"]))["id"]
    with store.write() as connection:
        gateway = {"id": 7, "process": "p", "started_at": 0, "seen_at": now_ms()}
        connection.execute(insert(schema.gateways), [gateway])
    for number in range(1, 6):
        key, stored = (id, True) if number != 3 else ("static-1", False)
        ask(store, request(FIRST + number, key, stored=stored))
        of = schema.ledger.c.id == FIRST + number
        with store.write() as connection:
            connection.execute(update(schema.ledger).where(of).values(created_at=1000 * number))
    close(
        store,
        settled(FIRST + 1),
        settled(FIRST + 2, "failed"),
        settled(FIRST + 3),
        settled(FIRST + 4, "failed"),
    )
    return id


async def asked(client: httpx2.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await client.get(REQUESTS, params=params)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    assert page["object"] == "list"
    return page


def numbers(page: dict[str, Any]) -> list[int]:
    return [int(row["request_id"].removeprefix("req_")) - FIRST for row in page["data"]]


async def test_requests_are_listed_newest_first_page_by_page(
    client: httpx2.AsyncClient, alice: str
) -> None:
    found: list[int] = []
    after: dict[str, str] = {}
    for expected_more in (True, True, False):
        page = await asked(client, limit="2", **after)
        assert page["has_more"] is expected_more
        found += numbers(page)
        after = {"before": page["last_id"]}
    assert found == [5, 4, 3, 2, 1]
    beyond = await asked(client, **after)
    assert (beyond["data"], beyond["has_more"], beyond["last_id"]) == ([], False, None)


async def test_a_row_tells_who_asked_what_and_how_it_ended(
    client: httpx2.AsyncClient, alice: str
) -> None:
    running, failed, *_ = (await asked(client))["data"]
    assert (running["key"], running["name"], running["outcome"]) == (alice, "alice", "running")
    assert (failed["model"], failed["outcome"], failed["cost"]) == ("m", "failed", "0.00 USD")
    assert failed["at"] == "1970-01-01T00:00:04Z"


async def test_key_model_tag_and_outcome_narrow_it(client: httpx2.AsyncClient, alice: str) -> None:
    for key in (alice, "alice"):
        assert numbers(await asked(client, key=key)) == [5, 4, 2, 1]
    assert numbers(await asked(client, key="static-1")) == [3]
    assert numbers(await asked(client, outcome="failed")) == [4, 2]
    assert numbers(await asked(client, outcome="ok,running", key="alice")) == [5, 1]
    assert numbers(await asked(client, model="n")) == []
    assert numbers(await asked(client, tag="prod", outcome="ok")) == [1]
    assert numbers(await asked(client, tag="other")) == []
    page = await asked(client, outcome="failed", limit="1")
    assert page["has_more"] is True
    assert numbers(await asked(client, outcome="failed", before=page["last_id"])) == [2]


@ON_SQLITE
@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("limit=0", (400, "invalid_request", "limit")),
        ("limit=1001", (400, "invalid_request", "limit")),
        ("outcome=fine", (400, "invalid_request", "outcome")),
        ("before=x", (400, "invalid_request", "before")),
        ("before=5", (400, "invalid_request", "before")),
        ("before=99999999999999999999", (400, "invalid_request", "before")),
        ("model=%00", (400, "invalid_request", "model")),
        ("tag=a,b", (400, "invalid_request", "tag")),
        ("key=nobody", (404, "not_found", None)),
        ("after=5", (400, "unsupported_parameter", "after")),
        ("key=a&key=b", (400, "invalid_request", "key")),
    ],
)
async def test_a_wrong_parameter_is_named(
    client: httpx2.AsyncClient, query: str, refusal: tuple[int, str, str | None]
) -> None:
    assert error_of(await client.get(f"{REQUESTS}?{query}")) == refusal
