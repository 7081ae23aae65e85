"""Tags of keys: kept as they are, each once, and sorted."""

from __future__ import annotations

from reverie.store.database.engine import Store
from reverie.store.tags import set_tags, tags_of


def test_a_key_has_the_tags_that_it_was_given_last(store: Store) -> None:
    with store.write() as connection:
        set_tags(connection, "key_1", ["prod", "ä, b", "dev"])
        set_tags(connection, "key_2", ["prod"])
        set_tags(connection, "key_1", ["team:search", "prod"])
    with store.read() as connection:
        found = tags_of(connection, ["key_1", "key_2", "key_3"])
        assert found == {"key_1": ["prod", "team:search"], "key_2": ["prod"]}
        assert tags_of(connection, []) == {}
    with store.write() as connection:
        set_tags(connection, "key_1", [])
    with store.read() as connection:
        assert tags_of(connection, ["key_1"]) == {}


def test_more_keys_are_asked_about_than_a_statement_has_parameters(store: Store) -> None:
    with store.write() as connection:
        set_tags(connection, "key_69999", ["last"])
    with store.read() as connection:
        found = tags_of(connection, [f"key_{number}" for number in range(70_000)])
    assert found == {"key_69999": ["last"]}
