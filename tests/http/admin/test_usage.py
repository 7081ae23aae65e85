"""What was used, over HTTP."""

from __future__ import annotations

import httpx2
import pytest
from sqlalchemy import insert

from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.usage import COUNTS
from reverie.times import parse_day
from tests.http.admin.harness import ON_SQLITE, USAGE, error_of, make


async def test_usage_is_grouped_and_summed_as_asked(
    client: httpx2.AsyncClient, store: Store
) -> None:
    alice = (await make(client))["id"]
    row = {name: n for n, name in enumerate(COUNTS, start=1)}
    row |= {"day": parse_day("2026-11-10"), "model": "m", "currency": "USD", "cost": 180_000_000}
    with store.write() as connection:
        connection.execute(
            insert(schema.usage_daily),
            [
                {**row, "key_id": alice},
                {**row, "key_id": alice, "model": "n"},
                {**row, "key_id": "static-1"},
                {**row, "key_id": alice, "day": parse_day("2026-10-31")},
            ],
        )
    asked = {"by": "key,day", "since": "2026-11-01", "until": "2026-11-30"}
    report = (await client.get(USAGE, params=asked)).json()
    assert (report["by"], report["since"], report["until"]) == (
        ["key", "day"],
        "2026-11-01",
        "2026-11-30",
    )
    assert [(one["key"], one["name"], one["day"]) for one in report["rows"]] == [
        (alice, "alice", "2026-11-10"),
        ("static-1", None, "2026-11-10"),
    ]
    assert report["rows"][0]["requests"] == 2 * row["requests"]
    assert report["rows"][0]["costs"] == [
        {"currency": "USD", "nano": 360_000_000, "formatted": "0.36 USD"}
    ]
    assert report["total"]["costs"][0]["formatted"] == "0.54 USD"
    for key in ("alice", alice):
        narrow = {**asked, "key": key, "model": "n"}
        [one] = (await client.get(USAGE, params=narrow)).json()["rows"]
        assert (one["key"], one["requests"]) == (alice, row["requests"])


async def test_by_tag_a_key_counts_in_each_of_its_rows_and_once_in_the_total(
    client: httpx2.AsyncClient, store: Store
) -> None:
    alice = (await make(client, tags=["prod", "team:a"]))["id"]
    bob = (await make(client, "bob", tags=["prod"]))["id"]
    carol = (await make(client, "carol"))["id"]
    row = {"model": "m", "currency": "USD", "cost": 0, **dict.fromkeys(COUNTS, 0)}
    rows = [
        {
            **row,
            "day": parse_day(f"2026-11-{10 + number % 2}"),
            "key_id": id,
            "requests": 10**number,
        }
        for number, id in enumerate((alice, bob, carol, "static-1"))
    ]
    with store.write() as connection:
        connection.execute(insert(schema.usage_daily), rows)
    november = {"since": "2026-11-01", "until": "2026-11-30"}

    async def asked(**more: str) -> tuple[list[tuple[object, ...]], int]:
        report = (await client.get(USAGE, params=november | more)).json()
        rows = [(*(one[name] for name in report["by"]), one["requests"]) for one in report["rows"]]
        return rows, report["total"]["requests"]

    assert await asked(by="tag") == ([("prod", 11), ("team:a", 1), (None, 1100)], 1111)
    assert await asked(by="day,tag") == (
        [
            ("2026-11-10", "prod", 1),
            ("2026-11-10", "team:a", 1),
            ("2026-11-10", None, 100),
            ("2026-11-11", "prod", 10),
            ("2026-11-11", None, 1000),
        ],
        1111,
    )
    assert await asked(by="tag", tag="team:a") == ([("prod", 1), ("team:a", 1)], 1)
    assert await asked(by="model", tag="prod") == ([("m", 11)], 11)
    assert await asked(by="tag", key="alice") == ([("prod", 1), ("team:a", 1)], 1)
    await client.patch(f"/admin/v1/keys/{bob}", json={"tags": ["team:a"]})
    assert await asked(by="tag") == ([("prod", 1), ("team:a", 11), (None, 1100)], 1111)


async def test_usage_of_a_key_that_nobody_knows_is_404(client: httpx2.AsyncClient) -> None:
    assert error_of(await client.get(USAGE, params={"key": "nobody"})) == (404, "not_found", None)


@ON_SQLITE
@pytest.mark.parametrize(
    ("path", "param", "code"),
    [
        (f"{USAGE}?by=colour", "by", "invalid_request"),
        (f"{USAGE}?since=yesterday", "since", "invalid_request"),
        (f"{USAGE}?until=7d", "until", "invalid_request"),
        (f"{USAGE}?since=2026-11-02&until=2026-11-01", "since", "invalid_request"),
        (f"{USAGE}?key=a%00b", "key", "invalid_request"),
        (f"{USAGE}?model=%00", "model", "invalid_request"),
        (f"{USAGE}?tag=a,b", "tag", "invalid_request"),
        (f"{USAGE}?format=csv", "format", "unsupported_parameter"),
        (f"{USAGE}?model=m&model=n", "model", "invalid_request"),
    ],
)
async def test_a_wrong_parameter_is_named(
    client: httpx2.AsyncClient, path: str, param: str, code: str
) -> None:
    assert error_of(await client.get(path)) == (400, code, param)


@ON_SQLITE
@pytest.mark.parametrize("query", ["by=key,day", "by=key&by=day"])
async def test_dimensions_are_listed_with_commas_or_one_by_one(
    client: httpx2.AsyncClient, query: str
) -> None:
    assert (await client.get(f"{USAGE}?{query}")).json()["by"] == ["key", "day"]
