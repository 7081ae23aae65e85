from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Compiled, Connection, insert, text

from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import KeyOrder
from reverie.settings import StoreSettings
from reverie.store import usage
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.usage import FIGURES, Question, Use
from reverie.times import parse_day

DAY = parse_day("2026-11-10")


def add(store: Store, *rows: dict[str, Any]) -> None:
    plain = {"day": DAY, "model": "m", "currency": "USD", "cost": 0, **dict.fromkeys(FIGURES, 0)}
    with store.write() as connection:
        connection.execute(insert(schema.usage_daily), [plain | row for row in rows])


def ask(store: Store, **question: Any) -> list[Use]:
    with store.read() as connection:
        return usage.ask(connection, Question(**{"since": DAY - 9, "until": DAY + 9, **question}))


def requests(uses: list[Use]) -> dict[tuple[Any, ...], int]:
    return {use.group: use.requests for use in uses}


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
    ("question", "sums"),
    [
        ({"since": DAY, "until": DAY}, {("a",): 3}),
        ({"since": DAY + 1, "until": DAY + 20}, {("a",): 4, ("b",): 24}),
        ({"key_ids": ("b",)}, {("b",): 8}),
        ({"key_ids": ("a", "b")}, {("a",): 7, ("b",): 8}),
        ({"key_ids": ()}, {}),
        ({"model": "n"}, {("a",): 2}),
        ({"model": "n' OR 'a' = 'a"}, {}),
        ({"since": DAY + 30, "until": DAY + 40}, {}),
        ({"since": -700_000, "until": 2_900_000}, {("a",): 7, ("b",): 24}),
    ],
)
def test_sums_are_of_what_was_asked_about_alone(
    filled: Store, question: dict[str, Any], sums: dict[tuple[Any, ...], int]
) -> None:
    assert requests(ask(filled, **question)) == sums


def test_every_figure_is_summed_up(store: Store) -> None:
    figures = {name: 10**n for n, name in enumerate(FIGURES)}
    add(store, {"key_id": "a", **figures}, {"key_id": "a", "day": DAY + 1, **figures})
    [use] = ask(store)
    assert {name: getattr(use, name) for name in FIGURES} == {n: 2 * v for n, v in figures.items()}


def test_money_of_several_currencies_is_never_added_up(store: Store) -> None:
    add(
        store,
        {"key_id": "a", "cost": 1, "requests": 1},
        {"key_id": "a", "cost": 2, "requests": 1, "day": DAY + 1},
        {"key_id": "a", "cost": 5, "requests": 1, "currency": "EUR"},
        {"key_id": "a", "cost": 0, "requests": 1, "currency": ""},
        {"key_id": "b", "cost": 7, "requests": 1},
    )
    uses = ask(store)
    assert [use.costs for use in uses] == [{"EUR": 5, "USD": 3}, {"USD": 7}]
    assert usage.total(uses).costs == {"EUR": 5, "USD": 10}
    assert usage.total(uses).requests == 5


def test_large_sums_are_exact_integers(store: Store) -> None:
    row = {"key_id": "a", "cost": 2**61 + 1, "completion_tokens": 2**61 + 1}
    add(store, row, row | {"day": DAY + 1})
    [use] = ask(store)
    assert use.costs == {"USD": 2**62 + 2}
    assert type(use.costs["USD"]) is int
    assert use.completion_tokens == 2**62 + 2


def test_a_key_is_known_by_its_name_its_id_or_by_what_it_used(store: Store) -> None:
    ids = []
    for _ in range(2):
        with store.write() as connection:
            key, _ = key_service.create(connection, KeyOrder(name="alice"), 1)
            key_service.revoke(connection, key.id, 2)
        ids.append(key.id)
    add(store, {"key_id": "static-1"})
    with store.read() as connection:
        assert set(usage.key_ids(connection, "alice")) == set(ids)
        assert usage.key_ids(connection, ids[0]) == (ids[0],)
        assert usage.key_ids(connection, "static-1") == ("static-1",)
        assert usage.key_ids(connection, "nobody") == ()


# The plans --------------------------------------------------------------------------------

_QUESTIONS = {
    "a month by key": Question(since=DAY, until=DAY + 29),
    "a month by day and model": Question(since=DAY, until=DAY + 29, by=("day", "model")),
    "a month by all": Question(since=DAY, until=DAY + 29, by=("key", "model", "day")),
    "a month in all": Question(since=DAY, until=DAY + 29, by=()),
    "a week of a model": Question(since=DAY, until=DAY + 6, model="m1"),
    "a month of a key": Question(since=DAY, until=DAY + 29, key_ids=("k7",), by=("day",)),
    "a month of two keys": Question(since=DAY, until=DAY + 29, key_ids=("k7", "k8")),
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
    if not store.is_sqlite:  # which keeps its statistics up to date by itself; SQLite has none
        with store.write() as connection:
            connection.execute(text("ANALYZE usage_daily"))
    yield store
    with store.write() as connection:
        schema.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
    store.close()


def plan_of(connection: Connection, question: Question) -> str:
    how = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    compiled: Compiled = usage.statement(question).compile(
        connection, compile_kwargs={"literal_binds": True}
    )
    rows = connection.exec_driver_sql(how + str(compiled))
    return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize("question", _QUESTIONS.values(), ids=_QUESTIONS.keys())
def test_usage_is_read_through_an_index_of_the_daily_sums(
    two_years: Store, question: Question
) -> None:
    with two_years.read() as connection:
        plan = plan_of(connection, question)
        assert len(usage.ask(connection, question)) > 0
    assert "ledger" not in plan
    assert "SCAN usage_daily" not in plan, plan  # SQLite's words for reading all of it
    assert "Seq Scan" not in plan, plan  # and PostgreSQL's
    if two_years.is_sqlite:
        by_key = question.key_ids is not None
        index = "PRIMARY KEY (key_id=? AND day>? AND day<?)" if by_key else "INDEX usage_daily_day"
        assert f"SEARCH usage_daily USING {index}" in plan, plan
    else:
        assert "usage_daily_day" in plan or "usage_daily_pk" in plan, plan
        assert f"Index Cond: ((day >= {DAY}) AND" in plan or "Index Cond: ((key_id" in plan, plan
