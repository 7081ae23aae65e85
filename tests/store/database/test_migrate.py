from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from reverie.errors import ConfigurationError, StoreFailure
from reverie.settings import StoreSettings
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate


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
    assert caught.value.problems == [
        "store.url: this store was made by a newer Reverie; upgrade this one"
    ]


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
