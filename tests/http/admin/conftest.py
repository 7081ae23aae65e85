"""The admin API over a real store, with nothing else of the gateway behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from reverie.settings import StoreSettings
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from tests.http.admin.harness import AS_ADMIN, admin_api


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    url = f"sqlite:///{tmp_path}/store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database")
    opened = Store(StoreSettings(url=url, timeout=10))
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
async def client(app: FastAPI, store: Store) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(admin_api(app, store))
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://here", headers=AS_ADMIN
    ) as client:
        yield client
