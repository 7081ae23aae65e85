"""Engines that are stopped when the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine

StartEngine = Callable[..., Awaitable[ScriptedEngine]]


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Start engines: ``await start_engine(die_after=1)``, with the fields of a script."""
    async with AsyncExitStack() as stack:

        async def start(**fields: Any) -> ScriptedEngine:
            return await stack.enter_async_context(ScriptedEngine(Script(**fields)))

        yield start
