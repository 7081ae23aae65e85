"""``reverie migrate``, as an operator types it, and what other commands say of an older store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from reverie.settings import StoreSettings
from reverie.store import gateways
from reverie.store.database.engine import Store
from reverie.store.database.migrate import revision
from reverie.store.database.schema import HEAD
from reverie.times import now_ms
from tests.cli.command import reverie_here
from tests.store.filled import contents, make


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A database without tables, that the commands use."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("REVERIE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REVERIE_STORE_URL", f"sqlite:///{tmp_path}/one.db")
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/one.db"))
    yield opened
    opened.close()


def test_a_plan_names_each_step_and_what_it_holds_up(store: Store) -> None:
    make(store, "0001")
    before = contents(store)
    done = reverie_here("migrate", "--plan")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"The store has revision 0001, this version needs {HEAD}:",
        "  0002  Answers that are given again to the same Idempotency-Key.",
        "        touches no row; done at once",
        "  0003  Tags of keys, and an index to search keys through.",
        "        reads keys (6 rows), which can't be written to meanwhile; about 1 s",
    ]
    assert contents(store) == before
    assert revision(store) == "0001"


def test_a_plan_for_programs(store: Store) -> None:
    make(store, "0002")
    with store.write() as connection:
        gateways.register(connection, now_ms())
    told = json.loads(reverie_here("migrate", "--plan", "--json").stdout)
    assert (told["from"], told["to"], told["running_gateways"]) == ("0002", HEAD, 1)
    assert [step["revision"] for step in told["steps"]] == ["0003"]
    assert told["steps"][0]["reads"] == {"keys": 6}
    assert "One gateway runs on the store." in reverie_here("migrate", "--plan").stdout


def test_the_store_is_brought_up_to_date_after_a_backup(store: Store, tmp_path: Path) -> None:
    make(store, "0001")
    done = reverie_here("migrate", "--backup", "before")
    assert done.returncode == 0
    assert "wrote before: 6 keys, 6 requests" in done.stderr
    assert f"The store has revision {HEAD} now." in done.stderr
    assert revision(store) == HEAD
    assert "revision 0001" in reverie_here("backup", "--check", "before").stdout
    again = reverie_here("migrate", "--backup", "unneeded")
    assert again.stdout == (
        f"Nothing is to be done: the store has revision {HEAD}, that of this version.\n"
    )
    assert not Path("unneeded").exists()


def test_nothing_is_migrated_without_its_backup(store: Store) -> None:
    make(store, "0001")
    Path("before").write_text("of yesterday")
    done = reverie_here("migrate", "--backup", "before")
    assert done.returncode == 1
    assert "before is there already" in done.stderr
    assert revision(store) == "0001"


def test_a_store_that_isnt_there_is_made_but_not_by_a_plan(store: Store, tmp_path: Path) -> None:
    done = reverie_here("migrate", "--plan")
    assert done.returncode == 1
    assert not (tmp_path / "one.db").exists()
    done = reverie_here("migrate")
    assert done.stdout.startswith("The store is empty.")
    assert revision(store) == HEAD


def test_a_store_of_a_newer_version_is_refused_with_both_revisions(
    store: Store, tmp_path: Path
) -> None:
    make(store, HEAD)
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for command in (
        ["migrate"],
        ["migrate", "--plan"],
        ["check"],
        ["backup", "b"],
        ["keys", "list"],
    ):
        done = reverie_here(*command)
        assert done.returncode == 1
        assert f"it has revision 9999, and this version knows those up to {HEAD}" in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_check_tells_that_a_start_will_migrate(store: Store) -> None:
    make(store, "0002")
    done = reverie_here("check")
    assert f"which will be migrated from revision 0002 to {HEAD}" in done.stdout
    assert revision(store) == "0002"


def test_a_command_that_migrates_says_so(store: Store) -> None:
    make(store, "0002")
    with store.write() as connection:
        connection.execute(text("DELETE FROM keys"))
    done = reverie_here("keys", "list")
    assert f"the store was migrated from revision 0002 to {HEAD}" in done.stderr
    assert "migrated" not in reverie_here("keys", "list").stderr
