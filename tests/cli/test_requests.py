"""``reverie requests``: the ledger's last rows, as an operator reads them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import KeySpec
from reverie.settings import StoreSettings
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.testing import Script, ThreadedEngine
from reverie.times import format_moment, now_ms
from tests.cli.command import Run, in_process, reverie
from tests.cli.gateway import gateway
from tests.cli.terminal import screen

NOW = 1_795_000_000_000
FIRST = 2**40


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = tmp_path / "reverie"  # where the default store is
    folder.mkdir()
    shutil.copy(empty_store, folder / "reverie.db")
    monkeypatch.chdir(folder)
    for variable in ("REVERIE_CONFIG", "REVERIE_STORE_URL"):
        monkeypatch.delenv(variable, raising=False)
    opened = Store(StoreSettings(url="sqlite:///reverie.db"))
    with opened.write() as connection:
        gateway = {"id": 1, "process": "p", "started_at": NOW, "seen_at": NOW}
        connection.execute(insert(schema.gateways), [gateway])
    yield opened
    opened.close()


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``reverie requests``; give its exit status, output and errors, without the line that
    names the store."""

    return in_process(monkeypatch, capsys, "requests")


def add(store: Store, number: int, **more: Any) -> None:
    """A request that came so many seconds after the first."""
    row = {
        "id": FIRST + number,
        "request_id": f"req_{number}",
        "gateway_id": 1,
        "key_id": "static-1",
        "model": "m",
        "backend": "b",
        "reserved_tokens": 0,
        "reserved_cost": 0,
        "price_input": 0,
        "price_cached": 0,
        "price_output": 0,
        "currency": "USD",
        "prompt_tokens": 12,
        "cached_tokens": 4,
        "completion_tokens": 30,
        "cost": 180_000_000,
        "estimated": False,
        "outcome": "ok",
        "created_at": NOW + 1000 * number,
        "first_token_at": NOW + 1000 * number + 45,
        "ended_at": NOW + 1000 * number + 900,
        **more,
    }
    with store.write() as connection:
        connection.execute(insert(schema.ledger), [row])


def listed(run: Run, *arguments: str) -> list[dict[str, Any]]:
    status, out, err = run("--json", *arguments)
    assert (status, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out)
    return found


def ids(run: Run, *arguments: str) -> list[str]:
    return [one["request_id"] for one in listed(run, *arguments)]


def key_named(store: Store, name: str) -> str:
    with store.write() as connection:
        return key_service.create(connection, KeySpec(name=name), now_ms())[0].id


def test_json_has_everything_that_is_known(run: Run, store: Store) -> None:
    alice = key_named(store, "alice")
    add(store, 1, key_id=alice)
    assert listed(run) == [
        {
            "request_id": "req_1",
            "at": format_moment(NOW + 1000),
            "key": alice,
            "name": "alice",
            "model": "m",
            "backend": "b",
            "outcome": "ok",
            "prompt_tokens": 12,
            "cached_tokens": 4,
            "completion_tokens": 30,
            "estimated": False,
            "cost_nano": 180_000_000,
            "cost": "0.18 USD",
            "currency": "USD",
            "ttft_ms": 45,
            "duration_ms": 900,
        }
    ]


def test_in_a_pipe_it_is_a_plain_table_newest_first(run: Run, store: Store) -> None:
    add(store, 1)
    add(store, 2, outcome="failed", estimated=True, first_token_at=None)
    add(store, 3, outcome=None, ended_at=None)
    status, out, err = run()
    assert (status, err) == (0, "")
    assert out.isascii()
    lines = [line.split() for line in out.splitlines()]
    assert [line[4] for line in lines[1:]] == ["running", "failed", "ok"]
    assert lines[2][2:] == ["static-1", "m", "failed", "~12", "~30", "0.18", "USD", "-"]
    assert lines[3][-2:] == ["45", "ms"]


def test_on_a_terminal_it_fits_80_columns(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, 1, model="a-model-with-a-long-name/" * 4)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run()
    assert max(map(len, screen(out))) <= 80
    assert "0.18" in out


def test_key_model_and_limit_narrow_it(run: Run, store: Store) -> None:
    alice = key_named(store, "alice")
    for number in range(1, 31):
        add(
            store,
            number,
            key_id=alice if number % 2 else "static-1",
            model="m" if number % 3 else "n",
        )
    assert ids(run) == [f"req_{number}" for number in range(30, 10, -1)]
    assert ids(run, "--limit", "2") == ["req_30", "req_29"]
    for which in ("alice", alice):
        assert ids(run, "--key", which, "--limit", "2") == ["req_29", "req_27"]
    assert ids(run, "--model", "n", "--limit", "2") == ["req_30", "req_27"]
    assert ids(run, "--model", "n", "--key", "alice", "--limit", "2") == ["req_27", "req_21"]
    assert ids(run, "--model", "x' OR '1'='1") == []


def test_a_tag_narrows_it(run: Run, store: Store) -> None:
    with store.write() as connection:
        key, _ = key_service.create(connection, KeySpec(name="tagged", tags=("prod",)), NOW)
    add(store, 1)
    add(store, 2, key_id=key.id)
    assert ids(run, "--tag", "prod") == ["req_2"]
    assert ids(run, "--tag", "other") == []


def test_outcomes_narrow_it(run: Run, store: Store) -> None:
    for number, outcome in enumerate(("ok", "failed", None, "lost"), start=1):
        add(store, number, outcome=outcome)
    assert ids(run, "--outcome", "failed") == ["req_2"]
    assert ids(run, "--outcome", "running, lost") == ["req_4", "req_3"]


def test_no_requests_is_a_sentence_and_an_empty_list(run: Run, store: Store) -> None:
    assert run() == (0, "There are no such requests.\n", "")
    assert listed(run) == []


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--limit", "0"], "--limit"),
        (["--limit", "10001"], "--limit"),
        (["--key", "nobody"], "--key"),
        (["--key", "a\nb"], "--key"),
        (["--model", ""], "--model"),
        (["--outcome", "fine"], "--outcome"),
    ],
)
def test_a_mistake_names_the_option(run: Run, arguments: list[str], option: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert f"'{option}'" in err


def test_without_a_store_it_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERIE_STORE_URL", "none")
    status, out, err = run()
    assert (status, out) == (1, "")
    assert err.startswith("error: store.url is none")


@pytest.mark.integration
def test_what_a_real_gateway_answered_is_listed(tmp_path: Path) -> None:
    with ThreadedEngine(Script(tokens=("Hello", " world"))) as engine:
        with gateway(tmp_path / "served", engine) as server:
            server.ask()
            server.ask("other")
            url = f"sqlite:///{tmp_path}/served/state/reverie/reverie.db"
            done = reverie("requests", "--json", REVERIE_STORE_URL=url)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("store: ")
    newest, oldest = json.loads(done.stdout)
    assert newest["at"] >= oldest["at"]
    for one in (newest, oldest):
        assert (one["key"], one["model"], one["outcome"]) == ("anonymous", "m", "ok")
        assert (one["completion_tokens"], one["cost"]) == (2, "0.000014 USD")
        assert one["ttft_ms"] is not None
