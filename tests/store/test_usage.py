"""The daily sums hold every figure, and are read through their indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Compiled, Connection, Select, insert, text

from reverie.settings import StoreSettings
from reverie.store import keys, usage
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.keys import Key
from reverie.store.tags import set_tags
from reverie.store.usage import COUNTS, UsageGroup, UsageQuery
from reverie.times import parse_day

DAY = parse_day("2026-11-10")


def add(store: Store, *rows: dict[str, Any]) -> None:
    plain = {"day": DAY, "model": "m", "currency": "USD", "cost": 0, **dict.fromkeys(COUNTS, 0)}
    with store.write() as connection:
        connection.execute(insert(schema.usage_daily), [plain | row for row in rows])


def ask(store: Store, **query: Any) -> list[UsageGroup] | None:
    with store.read() as connection:
        return usage.groups(connection, UsageQuery(**{"since": DAY - 9, "until": DAY + 9, **query}))


def requests(groups: list[UsageGroup] | None) -> dict[tuple[Any, ...], int]:
    return {one.group: one.requests for one in groups or ()}


@pytest.fixture
def filled(store: Store) -> Store:
    add(
        store,
        {"key_id": "a", "requests": 1},
        {"key_id": "a", "requests": 2, "model": "n"},
        {"key_id": "a", "requests": 4, "day": DAY + 1},
        {"key_id": "b", "requests": 8, "day": DAY + 1},
        {"key_id": "b", "requests": 16, "day": DAY + 20},
    )
    return store


@pytest.mark.parametrize(
    ("by", "sums"),
    [
        ((), {(): 15}),
        (("key",), {("a",): 7, ("b",): 8}),
        (("model",), {("m",): 13, ("n",): 2}),
        (("day",), {(DAY,): 3, (DAY + 1,): 12}),
        (("day", "key"), {(DAY, "a"): 3, (DAY + 1, "a"): 4, (DAY + 1, "b"): 8}),
        (("model", "key"), {("m", "a"): 5, ("m", "b"): 8, ("n", "a"): 2}),
    ],
)
def test_sums_are_grouped_and_ordered_as_asked(
    filled: Store, by: tuple[Any, ...], sums: dict[tuple[Any, ...], int]
) -> None:
    assert list(requests(ask(filled, by=by)).items()) == list(sums.items())


@pytest.mark.parametrize(
    ("query", "sums"),
    [
        ({"since": DAY, "until": DAY}, {("a",): 3}),
        ({"since": DAY + 1, "until": DAY + 20}, {("a",): 4, ("b",): 24}),
        ({"key": "b"}, {("b",): 8}),
        ({"model": "n"}, {("a",): 2}),
        ({"model": "n' OR 'a' = 'a"}, {}),
        ({"since": DAY + 30, "until": DAY + 40}, {}),
        ({"since": -700_000, "until": 2_900_000}, {("a",): 7, ("b",): 24}),
    ],
)
def test_sums_are_of_what_was_asked_about_alone(
    filled: Store, query: dict[str, Any], sums: dict[tuple[Any, ...], int]
) -> None:
    assert requests(ask(filled, **query)) == sums


def test_of_keys_that_share_a_name_all_are_summed_up_and_of_an_unknown_one_nothing_is_known(
    filled: Store,
) -> None:
    with filled.write() as connection:
        for id in ("a", "b"):
            key = Key(id=id, name="alice", created_at=1, revoked_at=2)
            keys.create(connection, key, keys.new_secret())
    assert requests(ask(filled, key="alice")) == {("a",): 7, ("b",): 8}
    assert ask(filled, key="nobody") is None


@pytest.fixture
def tagged(filled: Store) -> Store:
    with filled.write() as connection:
        set_tags(connection, "a", ["t", "u"])
        set_tags(connection, "b", ["u"])
    add(filled, {"key_id": "c", "requests": 32}, {"key_id": "c", "requests": 64, "model": "n"})
    return filled


@pytest.mark.parametrize(
    ("query", "sums"),
    [
        ({"by": ("tag",)}, {("t",): 7, ("u",): 15, (None,): 96}),
        (
            {"by": ("day", "tag")},
            {(DAY, "t"): 3, (DAY, "u"): 3, (DAY, None): 96, (DAY + 1, "t"): 4, (DAY + 1, "u"): 12},
        ),
        ({"by": ("tag", "key")}, {("t", "a"): 7, ("u", "a"): 7, ("u", "b"): 8, (None, "c"): 96}),
        ({"by": ("tag",), "key": "a"}, {("t",): 7, ("u",): 7}),
        ({"by": ("tag",), "model": "n"}, {("t",): 2, ("u",): 2, (None,): 64}),
        ({"by": ("tag",), "tag": "t"}, {("t",): 7, ("u",): 7}),
        ({"by": ("key",), "tag": "u"}, {("a",): 7, ("b",): 8}),
        ({"by": ("model",), "tag": "t"}, {("m",): 5, ("n",): 2}),
        ({"by": (), "tag": "u"}, {(): 15}),
        ({"by": ("key",), "tag": "t' OR 1=1"}, {}),
    ],
)
def test_sums_by_tag_hold_all_that_its_keys_ever_used(
    tagged: Store, query: dict[str, Any], sums: dict[tuple[Any, ...], int]
) -> None:
    assert requests(ask(tagged, **query)) == sums


def test_money_by_tag_is_told_apart_by_currency(store: Store) -> None:
    with store.write() as connection:
        set_tags(connection, "a", ["t"])
    add(store, {"key_id": "a", "cost": 2**61}, {"key_id": "a", "cost": 5, "currency": "EUR"})
    [use] = ask(store, by=("tag",)) or []
    assert use.costs == {"USD": 2**61, "EUR": 5}


def test_every_figure_is_summed_up(store: Store) -> None:
    figures = {name: 10**n for n, name in enumerate(COUNTS)}
    add(store, {"key_id": "a", **figures}, {"key_id": "a", "day": DAY + 1, **figures})
    [use] = ask(store) or []
    assert {name: getattr(use, name) for name in COUNTS} == {n: 2 * v for n, v in figures.items()}


def test_money_of_several_currencies_is_never_added_up(store: Store) -> None:
    add(
        store,
        {"key_id": "a", "cost": 1, "requests": 1},
        {"key_id": "a", "cost": 2, "requests": 1, "day": DAY + 1},
        {"key_id": "a", "cost": 5, "requests": 1, "currency": "EUR"},
        {"key_id": "a", "cost": 0, "requests": 1, "currency": ""},
        {"key_id": "b", "cost": 7, "requests": 1},
    )
    uses = ask(store) or []
    assert [use.costs for use in uses] == [{"EUR": 5, "USD": 3}, {"USD": 7}]
    assert usage.total(uses).costs == {"EUR": 5, "USD": 10}
    assert usage.total(uses).requests == 5


def test_large_sums_are_exact_integers(store: Store) -> None:
    row = {"key_id": "a", "cost": 2**61 + 1, "completion_tokens": 2**61 + 1}
    add(store, row, row | {"day": DAY + 1})
    [use] = ask(store) or []
    assert use.costs == {"USD": 2**62 + 2}
    assert type(use.costs["USD"]) is int
    assert use.completion_tokens == 2**62 + 2


def test_a_key_is_known_by_its_name_its_id_or_by_what_it_used(store: Store) -> None:
    with store.write() as connection:
        for id in ("key_1", "key_2"):
            key = Key(id=id, name="alice", created_at=1, revoked_at=2)
            keys.create(connection, key, keys.new_secret())
    add(store, {"key_id": "static-1"})
    with store.read() as connection:
        assert set(usage.key_ids(connection, "alice")) == {"key_1", "key_2"}
        assert usage.key_ids(connection, "key_1") == ("key_1",)
        assert usage.key_ids(connection, "static-1") == ("static-1",)
        assert usage.key_ids(connection, "nobody") == ()


# The plans --------------------------------------------------------------------------------

_QUERIES: dict[str, tuple[UsageQuery, tuple[str, ...] | None]] = {
    "a month by key": (UsageQuery(since=DAY, until=DAY + 29), None),
    "a month by day and model": (UsageQuery(since=DAY, until=DAY + 29, by=("day", "model")), None),
    "a month by all": (UsageQuery(since=DAY, until=DAY + 29, by=("key", "model", "day")), None),
    "a month in all": (UsageQuery(since=DAY, until=DAY + 29, by=()), None),
    "a week of a model": (UsageQuery(since=DAY, until=DAY + 6, model="m1"), None),
    "a month of a key": (UsageQuery(since=DAY, until=DAY + 29, by=("day",)), ("k7",)),
    "a month by tag": (UsageQuery(since=DAY, until=DAY + 29, by=("tag",)), None),
    "a month of a tag": (UsageQuery(since=DAY, until=DAY + 29, by=("day",), tag="t"), None),
    "a month of two keys": (UsageQuery(since=DAY, until=DAY + 29), ("k7", "k8")),
}


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
)
def two_years(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Sums of 20 keys and 3 models over two years."""
    url = f"sqlite:///{tmp_path_factory.mktemp('usage')}/store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
    store = Store(StoreSettings(url=url, timeout=30))
    migrate(store)
    add(
        store,
        *(
            {"key_id": f"k{key}", "day": DAY - 365 + day, "model": f"m{model}", "requests": 1}
            for day in range(730)
            for key in range(20)
            for model in range(3)
        ),
    )
    with store.write() as connection:
        for key in range(20):
            set_tags(connection, f"k{key}", ["t"])
    if not store.is_sqlite:  # which keeps its statistics up to date by itself; SQLite has none
        with store.write() as connection:
            connection.execute(text("ANALYZE usage_daily"))
    yield store
    with store.write() as connection:
        schema.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
    store.close()


def plan_of(connection: Connection, statement: Select[Any]) -> str:
    how = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    compiled: Compiled = statement.compile(connection, compile_kwargs={"literal_binds": True})
    rows = connection.exec_driver_sql(how + str(compiled))
    return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize(("query", "key_ids"), _QUERIES.values(), ids=_QUERIES.keys())
def test_usage_is_read_through_an_index_of_the_daily_sums(
    two_years: Store, query: UsageQuery, key_ids: tuple[str, ...] | None
) -> None:
    statement = usage.statement(query, key_ids)
    with two_years.read() as connection:
        plan = plan_of(connection, statement)
        assert connection.execute(statement).first() is not None
    assert "ledger" not in plan
    assert "SCAN usage_daily" not in plan, plan  # SQLite's words for reading all of it
    assert "Seq Scan on usage_daily" not in plan, plan  # and PostgreSQL's
    if two_years.is_sqlite:
        by_key = key_ids is not None
        index = "PRIMARY KEY (key_id=? AND day>? AND day<?)" if by_key else "INDEX usage_daily_day"
        assert f"SEARCH usage_daily USING {index}" in plan, plan
    else:
        assert "usage_daily_day" in plan or "usage_daily_pk" in plan, plan
        assert f"Index Cond: ((day >= {DAY}) AND" in plan or "Index Cond: ((key_id" in plan, plan
