"""``reverie keys``, as an operator types it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from reverie.settings import StoreSettings
from reverie.store import keys
from reverie.store.database.engine import Store
from tests.cli.command import Run, in_process
from tests.cli.terminal import screen


@pytest.fixture
def run(
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command in a folder with a store; give its exit status, output and errors, without
    the line that names the store."""
    folder = tmp_path / "reverie"
    folder.mkdir()
    shutil.copy(empty_store, folder / "reverie.db")
    monkeypatch.chdir(folder)
    for variable in ("REVERIE_CONFIG", "REVERIE_STORE_URL"):
        monkeypatch.delenv(variable, raising=False)

    return in_process(monkeypatch, capsys)


def made(run: Run, *arguments: str) -> dict[str, Any]:
    status, out, err = run("keys", "create", "--json", "--name", "alice", *arguments)
    assert status == 0, err
    described: dict[str, Any] = json.loads(out)
    return described


def listed(run: Run) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = json.loads(run("keys", "list", "--json")[1])
    return described


def known(secret: str, file: str = "reverie.db") -> keys.Key | None:
    store = Store(StoreSettings(url=f"sqlite:///{file}"))
    with store.read() as connection:
        key = keys.by_hash(connection, keys.hash_of(secret.encode()))
    store.close()
    return key


def test_the_secret_is_the_last_line_and_is_said_not_to_come_again(run: Run) -> None:
    status, out, err = run("keys", "create", "--name", "alice")
    assert (status, err) == (0, "")
    assert "won't be shown again" in out
    key = known(out.splitlines()[-1])
    assert key is not None
    assert key.name == "alice"


def test_every_option_is_kept(run: Run) -> None:
    options = "--models m,n --rpm 1 --tpm 2 --concurrency 3 --weight 4 --budget 10USD/month"
    limits = "--model-limit m:rpm=5,tpm=6,concurrency=7 --model-limit llama3:8b:rpm=8"
    described = made(run, *options.split(), *limits.split(), "--expires", "2099-01-31")
    key = known(described["secret"])
    assert key is not None
    assert (key.models, key.weight, key.budget, key.budget_period) == (
        ("m", "n"),
        4,
        10**10,
        "month",
    )
    assert key.limits == keys.RateLimits(1, 2, 3)
    assert key.model_limits == {
        "m": keys.RateLimits(5, 6, 7),
        "llama3:8b": keys.RateLimits(rpm=8),
    }
    assert described["expires_at"] == "2099-01-31T00:00:00Z"


@pytest.mark.parametrize(
    ("arguments", "option", "advice"),
    [
        (["--budget", "10"], "--budget", "10USD/month"),
        (["--budget", "10USD/year"], "--budget", "10USD/month"),
        (["--expires", "soon"], "--expires", "30d"),
        (["--expires", "2020-01-01"], "--expires", "passed"),
        (["--rpm", "0"], "--rpm", "from 1 to"),
        (["--rpm", "many"], "--rpm", "integer"),
        (["--tpm", "3000000000"], "--tpm", "from 1 to"),
        (["--weight", "0"], "--weight", "from 1 to 1000"),
        (["--models", ","], "--models", "name 1 to"),
        (["--models", "a\nb"], "--models", "printable"),
        (["--model-limit", "m"], "--model-limit", "MODEL:rpm=10"),
        (["--model-limit", "m:"], "--model-limit", "MODEL:rpm=10"),
        (["--model-limit", ":rpm=1"], "--model-limit", "MODEL:rpm=10"),
        (["--model-limit", "m:rpm=x"], "--model-limit", "MODEL:rpm=10"),
        (["--model-limit", "m:rpm=1,rpm=2"], "--model-limit", "MODEL:rpm=10"),
        (["--model-limit", "m:weight=2"], "--model-limit", "MODEL:rpm=10"),
        (["--model-limit", "m:rpm=0"], "--model-limit", "from 1 to"),
        (["--model-limit", "m:rpm=1", "--model-limit", "m:tpm=1"], "--model-limit", "once a model"),
        (["--tag", "a,b"], "--tag", "no comma"),
        (["--tag", ""], "--tag", "1 to 50"),
        ([f"--tag={n}" for n in range(17)], "--tag", "at most 16"),
        (["--name", "anonymous"], "--name", "reserved"),
        (["--name", "static-1"], "--name", "reserved"),
        (["--name", ""], "--name", "empty"),
        (["--name", "a\x1b[31m"], "--name", "printable"),
        (["--name", "\udcff"], "--name", "printable"),
        (["--name", "x" * 201], "--name", "200"),
    ],
)
def test_a_mistake_names_the_option_and_makes_no_key(
    run: Run, arguments: list[str], option: str, advice: str
) -> None:
    status, out, err = run("keys", "create", "--name", "alice", *arguments)
    assert (status, out) == (2, "")
    assert f"'{option}'" in err
    assert advice in err
    assert "Traceback" not in err
    assert listed(run) == []


def test_a_name_in_use_is_refused_until_its_key_has_ended(run: Run) -> None:
    made(run)
    status, out, err = run("keys", "create", "--name", "alice")
    assert (status, out) == (2, "")
    assert "in use" in err
    assert run("keys", "revoke", "alice")[0] == 0
    made(run)


def test_models_that_nobody_serves_are_allowed_and_noted(run: Run) -> None:
    status, _, err = run("keys", "create", "--name", "a", "--models", "smollm2-135m,later")
    assert status == 0
    assert err == "note: no model here is called later\n"


def test_lists_and_details_show_no_secret_and_no_hash(run: Run) -> None:
    described = made(run, "--budget", "10USD/month", "--rpm", "60")
    secret = described.pop("secret")
    stored = sqlite3.connect("reverie.db")
    [[digest]] = stored.execute("SELECT hash FROM keys")
    stored.close()
    for arguments in (["list"], ["list", "--json"], ["show", "alice"], ["show", "alice", "--json"]):
        status, out, _ = run("keys", *arguments)
        assert status == 0
        assert described["id"] in out
        assert "10.00 USD/month" in out
        assert "0.00 USD" in out
        assert secret not in out
        assert digest.hex() not in out.lower()
    assert listed(run) == [described]


def test_a_name_is_no_markup(run: Run) -> None:
    assert run("keys", "create", "--name", "[red]x[/red] :boom:")[0] == 0
    assert "[red]x[/red] :boom:" in run("keys", "list")[1]


def test_keys_in_use_are_listed_first_each_with_its_status(run: Run) -> None:
    made(run)
    run("keys", "revoke", "alice")
    run("keys", "create", "--name", "zoe")
    run("keys", "create", "--name", "bob", "--expires", "1d")
    stored = sqlite3.connect("reverie.db", isolation_level=None)
    stored.execute("UPDATE keys SET expires_at = created_at + 1 WHERE name = 'bob'")
    stored.close()
    names = [(key["name"], key["status"]) for key in listed(run)]
    assert names == [("zoe", "active"), ("alice", "revoked"), ("bob", "expired")]


def test_without_keys_the_list_says_how_to_make_one(run: Run) -> None:
    assert "reverie keys create" in run("keys", "list")[1]
    assert listed(run) == []


def test_a_rotated_key_has_another_secret_that_is_shown_once(run: Run) -> None:
    old = made(run)["secret"]
    status, out, _ = run("keys", "rotate", "alice")
    assert status == 0
    assert "won't be shown again" in out
    new = out.splitlines()[-1]
    assert known(new) is not None
    assert known(old) is None
    assert json.loads(run("keys", "rotate", "alice", "--json")[1])["secret"] not in (old, new)


def test_a_revoked_key_is_named_by_its_id_too(run: Run) -> None:
    described = made(run)
    status, out, _ = run("keys", "revoke", described["id"])
    assert status == 0
    assert "alice" in out
    assert json.loads(run("keys", "show", "alice", "--json")[1])["status"] == "revoked"
    assert run("keys", "rotate", "alice")[0] == 2


def test_a_changed_key_has_what_was_given_and_keeps_the_rest(run: Run) -> None:
    secret = made(run, "--rpm", "60", "--tpm", "9", "--budget", "1USD/day", "--expires", "9d")
    options = ["--rpm", "120", "--models", "big", "--model-limit", "big:rpm=7", "--weight", "3"]
    status, out, err = run("keys", "update", "alice", "--json", *options, "--clear", "budget,tpm")
    assert (status, err) == (0, "note: no model here is called big\n")
    changed = json.loads(out)
    assert [changed] == listed(run)
    assert (changed["rpm"], changed["tpm"], changed["budget"]) == (120, None, None)
    assert (changed["models"], changed["weight"]) == (["big"], 3)
    assert changed["model_limits"]["big"]["rpm"] == 7
    assert changed["expires_at"] == secret["expires_at"]
    assert known(secret["secret"]) is not None
    cleared = [f"--clear={name}" for name in ("models", "model-limit", "expires", "rpm")]
    status, out, _ = run("keys", "update", "alice", "--name", "bob", *cleared)
    assert status == 0
    assert f"The key bob ({secret['id']}) is changed." in out
    [changed] = listed(run)
    assert [changed[name] for name in ("models", "expires_at", "rpm")] == [None] * 3
    assert changed["model_limits"] == {}


def test_tags_are_given_shown_replaced_and_taken_away(run: Run) -> None:
    assert made(run, "--tag", "team:search", "--tag", "prod")["tags"] == ["prod", "team:search"]
    assert "tags     prod, team:search" in run("keys", "show", "alice")[1]
    assert "prod, team:search" in run("keys", "list")[1]
    assert run("keys", "update", "alice", "--rpm", "5")[0] == 0
    assert listed(run)[0]["tags"] == ["prod", "team:search"]
    assert run("keys", "update", "alice", "--tag", "dev")[0] == 0
    assert listed(run)[0]["tags"] == ["dev"]
    assert run("keys", "update", "alice", "--no-tags")[0] == 0
    assert listed(run)[0]["tags"] == []


def test_keys_are_found_by_what_is_known_of_them(run: Run) -> None:
    ids = {}
    for name, *tags in (("alice", "prod", "team:a"), ("Bob", "prod"), ("carol",)):
        options = [part for tag in tags for part in ("--tag", tag)]
        _, out, _ = run("keys", "create", "--json", "--name", name, *options)
        ids[name] = json.loads(out)["id"]
    run("keys", "revoke", "carol")

    def found(*options: str) -> list[str]:
        return [key["name"] for key in json.loads(run("keys", "list", "--json", *options)[1])]

    assert found("--tag", "prod") == ["Bob", "alice"]
    assert found("--tag", "team:a") == ["alice"]
    assert found("--search", "bO") == ["Bob"]
    assert found("--search", ids["alice"][:12]) == ["alice"]
    assert found("--status", "revoked") == ["carol"]
    assert found("--status", "active", "--tag", "prod", "--search", "ali") == ["alice"]
    assert run("keys", "list", "--tag", "dev") == (0, "There are no such keys.\n", "")
    for option, value in (("--status", "gone"), ("--tag", "a,b"), ("--search", " ")):
        status, out, err = run("keys", "list", option, value)
        assert (status, out) == (2, "")
        assert f"'{option}'" in err


def test_on_a_terminal_the_list_fits_80_columns_and_ids_stay_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--rpm=60", "--tpm=20000", "--budget=10USD/month", "--expires=90d", "--tag=team:a"]
    alice = made(run, "--models", "smollm2-135m", *options)
    run("keys", "create", "--name", "a-name/" * 20)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("keys", "list")
    lines = screen(out)
    assert max(map(len, lines)) <= 80
    assert any(alice["id"] in line for line in lines)
    without_limits = "".join(screen(run("keys", "list", "--search", "a-name")[1]))
    assert "tags" in "".join(lines)
    assert "tags" not in without_limits  # an empty column takes no room


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "say what to change, as in --rpm 120 or --clear rpm"),
        (["--rpm", "0"], "'--rpm': write a whole number"),
        (["--clear", "speed"], "'--clear': write one or more of models, rpm"),
        (["--clear", "name"], "'--clear': write one or more of models, rpm"),
        (["--clear", "rpm", "--rpm", "5"], "'--clear': --rpm is given as well"),
        (["--tag", "a", "--no-tags"], "'--no-tags': --tag is given as well"),
        (["--tag", "a,b"], "'--tag': a tag has 1 to 50 printable characters, no comma"),
        (["--name", "bob"], "'--name': a key in use is called bob"),
    ],
)
def test_a_change_that_can_t_be_made_names_the_option_and_changes_nothing(
    run: Run, options: list[str], advice: str
) -> None:
    made(run, "--rpm", "60")
    run("keys", "create", "--name", "bob")
    before = listed(run)
    status, out, err = run("keys", "update", "alice", *options)
    assert (status, out) == (2, "")
    assert advice in " ".join(err.replace("│", " ").split())
    assert listed(run) == before


@pytest.mark.parametrize("verb", ["show", "revoke", "rotate"])
def test_a_key_that_isn_t_there_or_that_several_could_be_is_an_error(run: Run, verb: str) -> None:
    status, out, err = run("keys", verb, "nobody")
    assert (status, out) == (2, "")
    assert "there is no key nobody" in err
    ids = []
    for _ in range(2):
        ids.append(made(run)["id"])
        run("keys", "revoke", "alice")
    status, out, err = run("keys", verb, "alice")
    assert (status, out) == (2, "")
    assert all(id in " ".join(err.split()) for id in ids)


def test_the_store_is_that_of_the_file_and_the_variable_overrides_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "other.toml"
    config.write_text('[store]\nurl = "sqlite:///other.db"\n')
    status, out, _ = run("keys", "create", "--name", "a", "--json", "--config", str(config))
    assert status == 0
    assert known(json.loads(out)["secret"], "other.db") is not None
    monkeypatch.setenv("REVERIE_STORE_URL", "sqlite:///third.db")
    status, out, _ = run("keys", "create", "--name", "a", "--json", "--config", str(config))
    assert status == 0
    assert known(json.loads(out)["secret"], "third.db") is not None


def test_keys_are_kept_in_postgresql_too(
    run: Run, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVERIE_STORE_URL", postgres_database)
    described = made(run)
    assert [key["id"] for key in listed(run)] == [described["id"]]


@pytest.mark.parametrize(
    "arguments", [["keys", "list"], ["keys", "show", "a"], ["keys", "revoke", "a"], ["usage"]]
)
def test_a_store_that_isn_t_there_is_said_to_be_missing_and_isn_t_made(
    run: Run, arguments: list[str]
) -> None:
    Path("reverie.db").unlink()
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err == (
        "error: store.url: there is no file reverie.db; create a key, or start the server\n"
    )
    assert not Path("reverie.db").exists()


def test_the_first_key_makes_the_store(run: Run) -> None:
    Path("reverie.db").unlink()
    assert known(made(run)["secret"]) is not None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("none", "store.url is none"),
        ("mysql://h/d", "store.url: write sqlite"),
        ("postgresql://u:hidden@/d?host=/nowhere", "store.url: the store can't be used"),
    ],
)
@pytest.mark.parametrize("arguments", [["keys", "list"], ["keys", "create", "--name", "a"]])
def test_a_store_that_can_t_be_used_is_one_sentence(
    run: Run, arguments: list[str], url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVERIE_STORE_URL", url)
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {reason}")
    assert len(err.splitlines()) == 1
    assert "hidden" not in err


def test_a_locked_store_is_one_sentence_and_makes_no_key(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVERIE_STORE_TIMEOUT", "0.05")
    other = sqlite3.connect("reverie.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    status, out, err = run("keys", "create", "--name", "alice")
    assert (status, out) == (1, "")
    assert err == (
        "error: store.url: the store can't be used: reverie.db is locked by another "
        "program; end that one, or raise store.timeout\n"
    )
    other.execute("ROLLBACK")
    other.close()
    assert listed(run) == []


def test_a_store_that_is_gone_in_the_midst_is_no_traceback(run: Run) -> None:
    store = Store(StoreSettings(url="sqlite:///reverie.db"))
    with store.write() as connection:
        connection.execute(text("DROP TABLE keys"))
    store.close()
    status, out, err = run("keys", "list")
    assert (status, out) == (1, "")
    assert err == "error: store.url: the store can't be used: reverie.db: no such table: keys\n"


@pytest.mark.parametrize("verb", ["create", "list", "show", "update", "revoke", "rotate"])
def test_help_teaches_with_an_example(run: Run, verb: str) -> None:
    status, out, _ = run("keys", verb, "--help")
    assert status == 0
    assert f"Example: reverie keys {verb}" in out


@pytest.mark.integration
def test_help_loads_no_database(tmp_path: Path) -> None:
    code = "import sys, reverie.cli; print('sqlalchemy' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert loaded.stdout == "False\n"
