"""``reverie backup`` and ``reverie restore``, as typed, and killed in the midst."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from reverie.settings import StoreSettings
from reverie.store import gateways
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate, revision
from reverie.times import now_ms
from tests.cli.command import errors, reverie_here
from tests.cli.killed import kill_in_the_midst
from tests.store.filled import contents, make
from tests.store.ledger_helpers import ask as reserve
from tests.store.ledger_helpers import close, make_key, rows, settled
from tests.store.ledger_helpers import request as reservation


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("REVERIE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with a key and a request, that the commands use."""
    url = f"sqlite:///{tmp_path}/one.db"
    monkeypatch.setenv("REVERIE_STORE_URL", url)
    opened = Store(StoreSettings(url=url))
    migrate(opened)
    make_key(opened)
    reserve(opened, reservation(1))
    close(opened, settled(1))
    yield opened
    opened.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/two.db"))
    yield opened
    opened.close()


def into(store: Store) -> dict[str, str]:
    return {"REVERIE_STORE_URL": store.settings.url}


def test_a_store_goes_into_a_file_and_into_another_store(store: Store, empty: Store) -> None:
    done = reverie_here("backup", "b")
    assert done.returncode == 0
    assert "wrote b: 1 key, 1 request, as of " in done.stderr
    assert done.stdout == ""
    checked = reverie_here("backup", "--check", "b")
    assert checked.stdout.startswith("b is whole: 1 key, 1 request, as of ")
    done = reverie_here("restore", "b", **into(empty))
    assert "restored 1 key, 1 request, as of " in done.stderr
    assert [key.id for key in rows(empty, "keys")] == ["key_a"]
    assert rows(empty) == rows(store)
    usage = reverie_here("usage", "--json", **into(empty))
    assert usage.stdout == reverie_here("usage", "--json").stdout


def test_no_secret_is_in_a_backup_and_the_file_is_its_owners_alone(store: Store) -> None:
    made = reverie_here("keys", "create", "--name", "alice").stdout
    secret = next(line for line in made.splitlines() if line.startswith("rv_"))
    reverie_here("backup", "b")
    from tests.store.upkeep.test_archive import zstd

    text = zstd.decompress(Path("b").read_bytes())
    assert b"alice" in text
    assert secret.encode() not in text
    assert Path("b").stat().st_mode & 0o777 == 0o600


def test_a_file_is_written_over_only_by_force(store: Store) -> None:
    Path("b").write_text("mine")
    assert errors(_without_store_line(reverie_here("backup", "b"))) == [
        "b is there already; name another file, or give --force"
    ]
    assert Path("b").read_text() == "mine"
    assert reverie_here("backup", "b", "--force").returncode == 0
    assert reverie_here("backup", "--check", "b").returncode == 0


def test_what_cant_be_restored_is_a_sentence_with_the_files_name(
    store: Store, empty: Store
) -> None:
    reverie_here("backup", "b")
    Path("cut").write_bytes(Path("b").read_bytes()[:-9])
    for verb in (["backup", "--check"], ["restore"]):
        for file, words in {
            "cut": "cut: it is cut off or damaged",
            "no": "no can't be read",
        }.items():
            done = _without_store_line(reverie_here(*verb, file, **into(empty)))
            (error,) = errors(done)
            assert error.startswith(words)
    assert not Path("two.db").exists()


def test_a_full_store_is_replaced_only_by_one_who_says_so(store: Store, empty: Store) -> None:
    reverie_here("backup", "b")
    make(empty, schema.HEAD)
    before = contents(empty)
    done = _without_store_line(reverie_here("restore", "b", **into(empty)))
    assert errors(done)[0].startswith("the store isn't empty")
    done = reverie_here("restore", "b", "--replace", **into(empty))
    assert errors(done) == ["nobody can be asked whether to replace the store; add --yes to do it"]
    assert contents(empty) == before
    done = reverie_here("restore", "b", "--replace", "--yes", **into(empty))
    assert done.returncode == 0
    assert rows(empty, "keys") == rows(store, "keys")


def test_nothing_is_restored_under_a_server_that_runs(store: Store) -> None:
    reverie_here("backup", "b")
    with store.write() as connection:
        gateways.register(connection, now_ms())
    done = _without_store_line(reverie_here("restore", "b", "--replace", "--yes"))
    assert errors(done) == ["one gateway runs on the store; stop every server that uses it first"]


def test_a_backup_is_taken_of_a_store_as_it_is_also_of_an_older_one(empty: Store) -> None:
    make(empty, "0001")
    done = reverie_here("backup", "b", **into(empty))
    assert "revision 0001" in done.stderr
    assert revision(empty) == "0001"


@pytest.mark.integration
def test_a_backup_goes_through_a_pipe(store: Store, empty: Store) -> None:
    piped = (
        f"{sys.executable} -m reverie backup - | "
        f"REVERIE_STORE_URL={empty.settings.url} {sys.executable} -m reverie restore -"
    )
    subprocess.run(["bash", "-c", f"set -o pipefail; {piped}"], check=True, capture_output=True)
    assert rows(empty) == rows(store)
    # What a shell makes of <(…) can be read once.
    substituted = f"{sys.executable} -m reverie backup --check <(cat b)"
    reverie_here("backup", "b")
    subprocess.run(["bash", "-c", substituted], check=True, capture_output=True)
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m reverie backup - > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert errors(_without_store_line(done)) == [
        "standard output can't be written: No space left on device"
    ]


@pytest.mark.integration
def test_on_a_terminal_it_shows_progress_and_asks(store: Store, empty: Store) -> None:
    assert "backing up" in _on_a_terminal("backup", "b")
    make(empty, schema.HEAD)
    before = contents(empty)
    asked = _on_a_terminal("restore", "b", "--replace", answer="n\n", **into(empty))
    assert "will be lost. Go on? [y/N]" in asked
    assert "nothing was changed" in asked
    assert contents(empty) == before
    done = _on_a_terminal("restore", "b", "--replace", answer="y\n", **into(empty))
    assert "restored 1 key" in done
    assert rows(empty, "keys") == rows(store, "keys")


def _on_a_terminal(*arguments: str, answer: str = "", **environ: str) -> str:
    """What ``reverie`` writes to a terminal, on which somebody types ``answer``."""
    mine, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "reverie", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(its)
    os.write(mine, answer.encode())
    said = b""
    try:
        while some := os.read(mine, 4096):
            said += some
    except OSError:  # it has closed the terminal
        pass
    os.close(mine)
    process.wait()
    return said.decode()


def _without_store_line(
    done: subprocess.CompletedProcess[str],
) -> subprocess.CompletedProcess[str]:
    lines = done.stderr.splitlines(keepends=True)
    done.stderr = "".join(line for line in lines if not line.startswith("store: "))
    return done


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Store]:
    """A store of several batches of rows."""
    opened = Store(StoreSettings(url=f"sqlite:///{tmp_path}/large.db", timeout=10))
    migrate(opened)
    key = {"weight": 1, "created_at": 1}
    with opened.write() as connection:
        connection.execute(
            insert(schema.keys),
            [
                {**key, "id": f"{n}", "hash": b"%d" % n, "name": os.urandom(40).hex()}
                for n in range(5000)
            ],
        )
    yield opened
    opened.close()


@pytest.mark.integration
def test_a_backup_that_is_killed_leaves_no_file_and_the_next_one_is_whole(large: Store) -> None:
    kill_in_the_midst("backup", "b", batches=3, **into(large))
    assert Path("b.part").exists()
    assert not Path("b").exists()
    assert len(rows(large, "keys")) == 5000
    assert reverie_here("backup", "b", **into(large)).returncode == 0
    assert "5000 keys" in reverie_here("backup", "--check", "b").stdout
    assert not Path("b.part").exists()


@pytest.mark.integration
def test_a_restore_that_is_killed_leaves_the_store_as_it_was(large: Store, store: Store) -> None:
    reverie_here("backup", "b", **into(large))
    before = contents(store)
    command = ["restore", "b", "--replace", "--yes"]
    kill_in_the_midst(*command, batches=5, **into(store))
    assert contents(store) == before
    assert reverie_here(*command, **into(store)).returncode == 0
    assert len(rows(store, "keys")) == 5000
