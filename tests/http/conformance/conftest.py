from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reverie.store.database.engine import Store
from reverie.testing import Script, ScriptedEngine
from tests.harness import store_of_servers
from tests.http.conformance.dying import TOKENS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_of_servers(tmp_path)


@pytest.fixture
async def engines() -> AsyncIterator[list[ScriptedEngine]]:
    script = Script(tokens=TOKENS, cached_tokens=4)
    async with ScriptedEngine(script) as first, ScriptedEngine(script) as second:
        yield [first, second]
