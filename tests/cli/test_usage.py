"""``reverie usage``, as an operator types it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import KeySpec
from reverie.settings import StoreSettings
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.usage import COUNTS
from reverie.times import DAY_MS, first_of_month, format_day, now_ms, parse_day
from tests.cli.command import Run, in_process

DAY = parse_day("2026-11-10")
NOVEMBER = ["--since", "2026-11-01", "--until", "2026-11-30"]


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path / "reverie"
    folder.mkdir()
    shutil.copy(empty_store, folder / "reverie.db")
    monkeypatch.chdir(folder)
    for variable in ("REVERIE_CONFIG", "REVERIE_STORE_URL"):
        monkeypatch.delenv(variable, raising=False)
    opened = Store(StoreSettings(url="sqlite:///reverie.db"))
    yield opened
    opened.close()


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``reverie usage``; give its exit status, output and errors, without the line that
    names the store."""

    return in_process(monkeypatch, capsys, "usage")


def add(store: Store, key_id: str, **more: Any) -> None:
    figures = {name: 10**n for n, name in enumerate(COUNTS)}
    row = {"day": DAY, "model": "m", "currency": "USD", "cost": 180_000_000, **figures}
    with store.write() as connection:
        connection.execute(insert(schema.usage_daily), [{**row, "key_id": key_id, **more}])


def key_named(store: Store, name: str) -> str:
    with store.write() as connection:
        return key_service.create(connection, KeySpec(name=name), now_ms())[0].id


def rows(out: str) -> list[list[str]]:
    """The cells of a printed table."""
    _title, _, *lines = out.splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def asked(run: Run, *arguments: str) -> dict[str, Any]:
    status, out, err = run("--json", *arguments)
    assert (status, err) == (0, "")
    report: dict[str, Any] = json.loads(out)
    return report


def test_the_table_shows_names_exact_money_and_a_total(run: Run, store: Store) -> None:
    add(store, key_named(store, "alice"), cost=9_007_199_254_740_993)
    add(store, "static-1", cost=7)
    status, out, err = run(*NOVEMBER)
    assert (status, err) == (0, "")
    head, alice, static, total = rows(out)
    assert head[0] == "key"
    assert head[1:] == [
        "requests",
        "cancelled",
        "failed",
        "lost",
        "prompt",
        "cached",
        "completion",
        "cost",
    ]
    figures = ["1", "10", "100", "1000", "10000", "100000", "1000000"]
    assert alice == ["alice", *figures, "9007199.254740993 USD"]
    assert static == ["static-1", *figures, "0.000000007 USD"]
    assert total == [
        "total",
        *["2", "20", "200", "2000", "20000", "200000", "2000000"],
        "9007199.254741 USD",
    ]
    assert "2026-11-01 to 2026-11-30" in out


def test_json_has_integers_and_written_money(run: Run, store: Store) -> None:
    alice = key_named(store, "alice")
    add(store, alice)
    report = asked(run, *NOVEMBER)
    [row] = report["rows"]
    assert row == {
        "key": alice,
        "name": "alice",
        **{name: 10**n for n, name in enumerate(COUNTS)},
        "costs": [{"currency": "USD", "nano": 180_000_000, "formatted": "0.18 USD"}],
    }
    assert report["total"]["costs"] == row["costs"]


def test_csv_has_a_column_for_each_currency(run: Run, store: Store) -> None:
    add(store, key_named(store, 'alice, "the" first'))
    add(store, "static-1", currency="EUR", cost=5)
    add(store, "static-1")
    status, out, err = run("--csv", "--by", "day,key", *NOVEMBER)
    assert (status, err) == (0, "")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [(line["day"], line["name"], line["cost_USD"], line["cost_EUR"]) for line in lines] == [
        ("2026-11-10", 'alice, "the" first', "0.18", "0.00"),
        ("2026-11-10", "", "0.18", "0.000000005"),
    ]
    assert [line["requests"] for line in lines] == ["1", "2"]


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (["--by", "model"], [["m"], ["n"]]),
        (["--by", "day"], [["2026-11-10"], ["2026-11-11"]]),
        (["--by", "day,model"], [["2026-11-10", "m"], ["2026-11-10", "n"], ["2026-11-11", "m"]]),
        (["--by", "model", "--by", "day"], [["m", "2026-11-10"], ["m", "2026-11-11"]]),
    ],
)
def test_groups_are_in_the_order_that_was_asked_for(
    run: Run, store: Store, by: list[str], groups: list[list[str]]
) -> None:
    add(store, "a")
    add(store, "a", model="n")
    add(store, "a", day=DAY + 1)
    _, out, _ = run(*by, *NOVEMBER)
    shown = [row[: len(groups[0])] for row in rows(out)[1:-1]]
    assert shown[: len(groups)] == groups


def test_keys_of_one_name_are_told_apart_by_their_ids(run: Run, store: Store) -> None:
    ids = []
    for _ in range(2):
        ids.append(key_named(store, "alice"))
        add(store, ids[-1])
        with store.write() as connection:
            key_service.revoke(connection, ids[-1], now_ms())
    _, out, _ = run(*NOVEMBER)
    assert {row[0] for row in rows(out)[1:-1]} == {f"alice ({id})" for id in ids}
    report = asked(run, *NOVEMBER, "--key", "alice")
    assert report["total"]["requests"] == 2


def test_key_and_model_narrow_it(run: Run, store: Store) -> None:
    alice = key_named(store, "alice")
    add(store, alice)
    add(store, alice, model="n")
    add(store, "static-1")
    for which in ("alice", alice):
        assert asked(run, *NOVEMBER, "--key", which)["total"]["requests"] == 2
    assert asked(run, *NOVEMBER, "--key", "static-1")["total"]["requests"] == 1
    assert asked(run, *NOVEMBER, "--model", "n")["total"]["requests"] == 1
    assert asked(run, *NOVEMBER, "--model", "x' OR '1'='1")["rows"] == []


def test_by_tag_a_key_counts_in_each_row_and_once_in_the_total(run: Run, store: Store) -> None:
    for name, tags in (("alice", ("prod", "dev")), ("bob", ("prod",)), ("carol", ())):
        with store.write() as connection:
            spec = KeySpec(name=name, tags=tags)
            add_to = key_service.create(connection, spec, now_ms())[0].id
        add(store, add_to)
    _, out, _ = run(*NOVEMBER, "--by", "tag")
    assert [row[:2] for row in rows(out)[1:]] == [
        ["dev", "1"],
        ["prod", "2"],
        ["-", "1"],
        ["total", "3"],
    ]
    _, out, _ = run(*NOVEMBER, "--by", "tag,key", "--tag", "prod", "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [(row["tag"], row["name"]) for row in table] == [
        ("dev", "alice"),
        ("prod", "alice"),
        ("prod", "bob"),
    ]
    assert asked(run, *NOVEMBER, "--tag", "dev")["total"]["requests"] == 1
    assert asked(run, *NOVEMBER, "--by", "tag")["rows"][-1]["tag"] is None


def test_by_default_it_is_about_this_month(run: Run, store: Store) -> None:
    today = now_ms() // DAY_MS
    add(store, "a", day=today)
    add(store, "a", day=first_of_month(today) - 1)
    report = asked(run)
    assert report["since"] == format_day(first_of_month(today))
    assert report["until"] == format_day(today)
    assert report["total"]["requests"] == 1


def test_the_last_two_days_are_today_and_yesterday(run: Run, store: Store) -> None:
    today = now_ms() // DAY_MS
    for ago in range(4):
        add(store, "a", day=today - ago)
    days = [row["day"] for row in asked(run, "--since", "2d", "--by", "day")["rows"]]
    assert days == [format_day(today - 1), format_day(today)]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--by", "colour"], "--by"),
        (["--by", ""], "--by"),
        (["--since", "yesterday"], "--since"),
        (["--until", "7d"], "--until"),
        (["--since", "2026-11-02", "--until", "2026-11-01"], "--since"),
        (["--key", "nobody"], "--key"),
        (["--key", "a\nb"], "--key"),
        (["--model", ""], "--model"),
        (["--tag", "a,b"], "--tag"),
        (["--json", "--csv"], "--csv"),
    ],
)
def test_a_mistake_names_the_option(run: Run, arguments: list[str], option: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert f"'{option}'" in err


def test_help_teaches_with_an_example(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "Example: reverie usage --by key,model --since 7d" in out
    assert "it isn't the sum of these rows" in " ".join(out.split())
