"""A report says what was used, of whom, in the operator's words."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert

from reverie.gateway.accounts import usage_report
from reverie.gateway.accounts.key_service import InvalidInput, Key, KeyNotFound
from reverie.gateway.accounts.usage_report import COUNTS, UsageReport
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.tags import set_tags
from reverie.store.usage import UsageQuery
from reverie.times import DAY_MS, parse_day

TODAY = parse_day("2026-11-23")
NOW = TODAY * DAY_MS + 1


def query(**given: Any) -> UsageQuery:
    plain = dict.fromkeys(("since", "until", "key", "model", "tag"))
    return usage_report.parse_query(**{"by": (), **plain, "now": NOW, **given})


def report(store: Store, **given: Any) -> UsageReport:
    with store.read() as connection:
        return usage_report.make(connection, query(**given))


def add(store: Store, key_id: str, **columns: Any) -> None:
    counts = {name: 10**n for n, name in enumerate(COUNTS)}
    row = {"day": TODAY, "model": "m", "currency": "USD", "cost": 180_000_000, **counts, **columns}
    with store.write() as connection:
        connection.execute(insert(schema.usage_daily), [{"key_id": key_id, **row}])


def make_key(store: Store, id: str, name: str) -> None:
    with store.write() as connection:
        key = Key(id=id, name=name, created_at=1, revoked_at=2)
        keys.create(connection, key, keys.new_secret())


def test_by_default_it_is_about_the_current_month_by_key() -> None:
    asked = query()
    assert (asked.by, asked.since, asked.until) == (("key",), TODAY - 22, TODAY)
    assert (asked.key, asked.model) == (None, None)


def test_dimensions_may_be_repeated_or_listed_and_count_once() -> None:
    assert query(by=["day, key", "day"]).by == ("day", "key")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("by", {"by": ["colour"]}),
        ("since", {"since": "yesterday"}),
        ("since", {"since": "2026-11-24"}),
        ("until", {"until": "7d"}),
        ("key", {"key": " "}),
        ("model", {"model": "a\nb"}),
        ("tag", {"tag": "a,b"}),
    ],
)
def test_a_mistake_names_its_field(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        query(**given)
    assert caught.value.field == field


def test_groups_are_ordered_and_called_by_the_names_of_keys(store: Store) -> None:
    make_key(store, "key_1", "zoe")
    make_key(store, "key_2", "alice")
    make_key(store, "key_3", "alice")
    for key_id in ("anonymous", "key_1", "key_2", "key_3"):
        add(store, key_id)
    found = report(store, by=["key", "day"])
    assert [found.labels(group) for group in found.groups] == [
        ["alice (key_2)", "2026-11-23"],
        ["alice (key_3)", "2026-11-23"],
        ["anonymous", "2026-11-23"],
        ["zoe", "2026-11-23"],
    ]


def test_what_has_no_tag_comes_last_and_is_called_by_a_dash(store: Store) -> None:
    for id, tags in (("key_1", ["prod", "dev"]), ("key_2", ["prod"]), ("key_3", [])):
        make_key(store, id, id)
        add(store, id)
        with store.write() as connection:
            set_tags(connection, id, tags)
    add(store, "static-1")
    found = report(store, by=["tag,key"])
    assert [found.labels(group) for group in found.groups] == [
        ["dev", "key_1"],
        ["prod", "key_1"],
        ["prod", "key_2"],
        ["-", "key_3"],
        ["-", "static-1"],
    ]
    assert found.total.requests == 4
    assert found.to_json()["rows"][3]["tag"] is None


def test_as_json_it_has_every_figure_and_exact_money(store: Store) -> None:
    make_key(store, "key_1", "alice")
    add(store, "key_1")
    add(store, "key_1", currency="EUR", cost=2 * 10**9)
    found = report(store, by=["key", "model"])
    costs = [
        {"currency": "EUR", "nano": 2 * 10**9, "formatted": "2.00 EUR"},
        {"currency": "USD", "nano": 180_000_000, "formatted": "0.18 USD"},
    ]
    sums = {**{name: 2 * 10**n for n, name in enumerate(COUNTS)}, "costs": costs}
    assert found.to_json() == {
        "by": ["key", "model"],
        "since": "2026-11-01",
        "until": "2026-11-23",
        "rows": [{"key": "key_1", "name": "alice", "model": "m", **sums}],
        "total": sums,
    }
    assert usage_report.format_costs(found.total) == "2.00 EUR + 0.18 USD"


def test_without_any_use_it_is_empty_and_costs_nothing(store: Store) -> None:
    found = report(store)
    assert found.groups == []
    assert usage_report.format_costs(found.total) == "0.00"


def test_a_key_that_nobody_knows_is_an_error_and_one_without_use_is_not(store: Store) -> None:
    make_key(store, "key_1", "alice")
    assert report(store, key="alice").groups == []
    with pytest.raises(KeyNotFound, match="no key nobody"):
        report(store, key="nobody")
