from __future__ import annotations

import ast
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

import reverie.store.database
from reverie.errors import ConfigurationError, StoreFailure
from reverie.settings import StoreSettings
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import is_current, migrate, plan, upgrade
from reverie.store.reservations import Granted
from tests.store.filled import REVISIONS, contents, make
from tests.store.ledger_helpers import ask, close, make_key, request, rows, settled


def test_the_migrations_lead_to_the_schema_of_the_code(store: Store) -> None:
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == schema.HEAD


def test_the_partial_and_the_unique_indexes_are_what_the_schema_says(store: Store) -> None:
    """Alembic's comparison doesn't look at an index's condition."""
    with store.read() as connection:
        found = inspect(connection)
        for table in schema.metadata.sorted_tables:
            made = {index["name"]: index for index in found.get_indexes(table.name)}
            assert made.keys() == {index.name for index in table.indexes}
            for index in table.indexes:
                one = made[index.name]
                assert one["column_names"] == [column.name for column in index.columns]
                assert bool(one["unique"]) == index.unique
                option = f"{connection.dialect.name}_where"
                condition = index.dialect_options[connection.dialect.name]["where"]
                written = str(one.get("dialect_options", {}).get(option, "")).strip("()")
                assert written == ("" if condition is None else str(condition))


@pytest.fixture
def bare(store_url: str) -> Iterator[Store]:
    """A database without tables."""
    opened = Store(StoreSettings(url=store_url, timeout=10))
    yield opened
    opened.close()


@pytest.mark.parametrize("old", REVISIONS)
def test_a_store_of_each_earlier_version_keeps_every_row(bare: Store, old: str) -> None:
    make(bare, old)
    before = contents(bare)
    assert all(len(lines) == 6 for _, lines in before.values())
    assert migrate(bare) == old
    after = contents(bare)
    for table, (columns, lines) in before.items():
        places = [after[table][0].index(column) for column in columns]
        now = [tuple(line[place] for place in places) for line in after[table][1]]
        assert sorted(now, key=repr) == lines
    make_key(bare)
    (granted,) = ask(bare, request(1 << 41))
    assert isinstance(granted, Granted)


@pytest.mark.parametrize("old", REVISIONS)
def test_a_plan_says_what_is_missing_and_writes_nothing(bare: Store, old: str) -> None:
    make(bare, old)
    before = contents(bare)
    steps = plan(bare)
    assert [step.revision for step in steps] == REVISIONS[REVISIONS.index(old) + 1 :]
    assert all(step.what and not step.what.endswith("\n") for step in steps)
    assert contents(bare) == before
    if old < "0003":
        assert (steps[-1].reads, steps[-1].rewrites) == ({"keys": 6}, {})
        assert 0 < steps[-1].seconds < 1


def test_a_plan_for_a_store_that_isnt_there_makes_none(tmp_path: Path) -> None:
    store = Store(StoreSettings(url=f"sqlite:///{tmp_path}/none.db"))
    assert plan(store) == []
    assert list(tmp_path.iterdir()) == []


def test_every_migration_says_what_it_reads_and_rewrites() -> None:
    """An index over a table that is there reads it, and a change of its columns may rewrite it."""
    folder = Path(reverie.store.database.__path__[0]) / "migrations" / "versions"
    for file in folder.glob("*.py"):
        text = file.read_text()
        made = set(re.findall(r'create_table\(\s*"(\w+)"', text))
        indexed = set(re.findall(r'create_index\(\s*"\w+",\s*"(\w+)"', text))
        (reads,) = re.findall(r"^reads = (\(.*\))$", text, re.MULTILINE)
        (rewrites,) = re.findall(r"^rewrites = (\(.*\))$", text, re.MULTILINE)
        assert indexed - made <= {*ast.literal_eval(reads), *ast.literal_eval(rewrites)}, file
        if re.search(r"alter_column|batch_alter", text):
            assert ast.literal_eval(rewrites), file


def test_a_start_says_what_it_did_to_an_older_store(
    bare: Store, caplog: pytest.LogCaptureFixture
) -> None:
    make(bare, REVISIONS[0])
    with caplog.at_level("INFO", "reverie.store"):
        migrate(bare)
        migrate(bare)
    (record,) = [one for one in caplog.records if one.message == "the store was migrated"]
    told = record.__dict__["fields"]
    assert (told["from_revision"], told["to_revision"]) == (REVISIONS[0], schema.HEAD)


def test_a_migration_may_take_longer_than_a_request_would_wait(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doesn't wait longer for a lock, since whoever comes after it would wait, too."""
    store = Store(StoreSettings(url=postgres_database, timeout=30))
    make(store, REVISIONS[0])
    seen: list[str] = []

    def look(connection: Connection) -> None:
        for name in ("statement_timeout", "lock_timeout"):
            seen.append(connection.execute(text(f"SHOW {name}")).scalar_one())
        upgrade(connection)

    monkeypatch.setattr("reverie.store.database.migrate.upgrade", look)
    migrate(store)
    assert seen == ["6h", "30s"]
    store.close()


def test_a_gateway_that_runs_goes_on_after_a_newer_version_has_added_to_the_store(
    store: Store,
) -> None:
    """What an upgrade with several gateways relies on: migrations only add."""
    make_key(store)
    ask(store, request(1))
    with store.write() as connection:
        connection.execute(text("ALTER TABLE ledger ADD COLUMN more TEXT"))
        connection.execute(text("ALTER TABLE usage_daily ADD COLUMN more INTEGER DEFAULT 0"))
        connection.execute(text("CREATE TABLE newer (id INTEGER)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    close(store, settled(1))
    (granted,) = ask(store, request(2))
    assert isinstance(granted, Granted)
    close(store, settled(2))
    assert [row.outcome for row in rows(store)] == ["ok", "ok"]
    (day,) = rows(store, "usage_daily")
    assert day.requests == 2


def test_migrating_again_changes_nothing(store: Store) -> None:
    migrate(store)
    with store.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1


@pytest.mark.integration
def test_processes_that_start_together_migrate_once(store_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    with context.Pool(4, initializer=_remember, initargs=(barrier,)) as pool:
        assert pool.map(_migrate, [store_url] * 4, chunksize=1) == ["ok"] * 4
    store = Store(StoreSettings(url=store_url))
    with store.read() as connection:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalars()
        assert version.all() == [schema.HEAD]
    store.close()


def _remember(barrier: object) -> None:
    globals()["_barrier"] = barrier


def _migrate(url: str) -> str:
    store = Store(StoreSettings(url=url, timeout=30))
    globals()["_barrier"].wait(60)
    migrate(store)
    store.close()
    return "ok"


def test_a_store_from_the_future_is_refused_in_one_sentence(store: Store) -> None:
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError) as caught:
        migrate(store)
    (problem,) = caught.value.problems
    assert "made by a newer Reverie: it has revision 9999" in problem
    assert f"up to {schema.HEAD}" in problem
    assert "Install the newer version again, or restore a backup" in problem
    with pytest.raises(ConfigurationError, match="9999"):
        is_current(store)
    with pytest.raises(ConfigurationError, match="9999"):
        plan(store)


def test_a_migration_that_fails_leaves_nothing_behind(store_url: str) -> None:
    store = Store(StoreSettings(url=store_url, timeout=10))
    with store.write() as connection:
        connection.execute(text("CREATE TABLE usage_daily (mine INTEGER)"))  # somebody else's
    with pytest.raises(StoreFailure):
        migrate(store)
    with store.read() as connection:
        assert inspect(connection).get_table_names() == ["usage_daily"]
    store.close()


def test_a_file_that_is_no_database_is_a_failure_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("not a database, and longer than a header of a hundred " * 9)
    store = Store(StoreSettings(url=f"sqlite:///{tmp_path}/store.db"))
    with pytest.raises(StoreFailure, match="is not a SQLite database"):
        migrate(store)
    store.close()
