"""Stores to test on: each test that asks for ``store`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database that is empty."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_database")
        return url
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A store that is ready to use."""
    opened = Store(StoreSettings(url=store_url, timeout=10))
    migrate(opened)
    yield opened
    opened.close()
