"""A collector, and a gateway that sends there at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from reverie.gateway.traces import exporter
from tests.gateway.traces.collector import Collector


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    monkeypatch.setattr(exporter, "INTERVAL", 0.01)
    monkeypatch.setattr(exporter, "_FIRST_PAUSE", 0.01)
    async with Collector() as running:
        yield running
