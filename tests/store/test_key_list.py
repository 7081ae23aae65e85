"""Keys are listed page by page, and found by what is known of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from reverie.store import keys
from reverie.store.database.engine import Store
from reverie.store.key_list import KeyFilter, listed
from reverie.store.keys import Key
from reverie.store.tags import set_tags

NOW = 1_795_392_196_123


def make(store: Store, id: str, name: str = "", *tags: str, **fields: Any) -> None:
    with store.write() as connection:
        key = Key(id=id, name=name or id, created_at=1, **fields)
        keys.create(connection, key, keys.new_secret())
        set_tags(connection, id, tags)


def paged(store: Store, limit: int, most_read: int = 1000, **wanted: Any) -> list[str]:
    """The ids on all pages."""
    found: list[str] = []
    after: str | None = ""
    with store.read() as connection:
        while after is not None:
            page = listed(
                connection, NOW, KeyFilter(**wanted), after=after, limit=limit, most_read=most_read
            )
            assert len(page.keys) <= limit
            assert page.next is None or page.next > after
            found += [key.id for key in page.keys]
            after = page.next
    return found


@pytest.fixture
def filled(store: Store) -> Store:
    make(store, "key_1", "Zoë's", "prod", "team:a")
    make(store, "key_2", "ZOË", "prod")
    make(store, "key_3", "50%_off", "dev", expires_at=NOW)
    make(store, "key_4", "Alice", "prod", expires_at=NOW + 1)
    make(store, "key_5", "alice 2", revoked_at=NOW, expires_at=NOW - 1)
    return store


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_pages_follow_each_other_and_leave_nothing_out(filled: Store, limit: int) -> None:
    assert paged(filled, limit) == [f"key_{n}" for n in range(1, 6)]
    assert paged(filled, limit, tag="prod") == ["key_1", "key_2", "key_4"]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({"part": "ALICE"}, ["key_4", "key_5"]),
        ({"part": "zoë"}, ["key_1", "key_2"]),
        ({"part": "%_"}, ["key_3"]),
        ({"part": "_"}, ["key_3"]),
        ({"part": "' OR 1=1"}, []),
        ({"part": "key_4"}, ["key_4"]),
        ({"part": "KEY_"}, ["key_1", "key_2", "key_3", "key_4", "key_5"]),
        ({"part": "key_%"}, []),
        ({"status": "active"}, ["key_1", "key_2", "key_4"]),
        ({"status": "expired"}, ["key_3"]),
        ({"status": "revoked"}, ["key_5"]),
        ({"tag": "team:a"}, ["key_1"]),
        ({"tag": "team:"}, []),
        ({"tag": "prod", "part": "li", "status": "active"}, ["key_4"]),
        ({"tag": "prod", "part": "key_2"}, ["key_2"]),
        ({"tag": "dev", "status": "active"}, []),
    ],
)
def test_a_filter_lets_those_through_for_which_all_of_it_holds(
    filled: Store, wanted: dict[str, Any], ids: list[str]
) -> None:
    assert paged(filled, 2, **wanted) == ids
    with filled.read() as connection:
        assert [k.id for k in listed(connection, NOW, KeyFilter(**wanted)).keys] == ids


def test_a_page_reads_so_many_keys_at_most_and_the_next_goes_on_there(filled: Store) -> None:
    with filled.read() as connection:
        page = listed(connection, NOW, KeyFilter(part="alice"), limit=5, most_read=2)
    assert (page.keys, page.next) == ([], "key_2")
    assert paged(filled, 5, most_read=2, part="alice") == ["key_4", "key_5"]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({"tag": "prod"}, "key_tags_tag"),
        ({"part": "key_1"}, "id>? AND id<?"),
        ({"part": "alice", "status": "active"}, "COVERING INDEX keys_search"),
    ],
)
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_what_is_looked_for_is_told_by_an_index_alone(
    filled: Store, wanted: dict[str, Any], index: str
) -> None:
    plans: list[str] = []

    def explain(_connection: Any, cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        plans.append(str(cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()))

    with filled.read() as connection:
        event.listen(connection, "before_cursor_execute", explain)
        listed(connection, NOW, KeyFilter(**wanted), limit=2)
    assert index in plans[-1], plans
    assert "SCAN keys" not in str(plans)
