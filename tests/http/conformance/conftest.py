from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.store.database.engine import Store
from tests.harness import store_of_servers


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_of_servers(tmp_path)
