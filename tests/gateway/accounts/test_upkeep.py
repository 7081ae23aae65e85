"""A backup has what no store had yet: the settlements in this machine's journals."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.gateway.accounts.journal import Journal, directory
from reverie.gateway.accounts.upkeep import back_up, restore
from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from tests.store.ledger_helpers import ask, make_key, request, rows, settled


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Store]]:
    """Two, the second of which is empty."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = [
        Store(StoreSettings(url=f"sqlite:///{tmp_path}/{name}.db", timeout=10)) for name in "ab"
    ]
    migrate(found[0])
    yield found
    for store in found:
        store.close()


def test_what_a_request_came_to_is_restored_though_only_a_journal_had_it(
    stores: list[Store],
) -> None:
    store, other = stores
    make_key(store)
    ask(store, request(1))
    Journal(directory(store.settings.url), durable=False).append(settled(1))
    file = io.BytesIO()
    back_up(store, file, lambda _: None)
    file.seek(0)
    restore(other, file, lambda _: None, replace=False)
    assert [row.outcome for row in rows(store)] == [None]
    assert [row.outcome for row in rows(other)] == [settled(1).outcome]
    assert [day.requests for day in rows(other, "usage_daily")] == [1]
