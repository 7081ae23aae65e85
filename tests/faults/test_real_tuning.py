"""``reverie tune`` measures a real engine."""

from __future__ import annotations

import pytest

from reverie.backends import tuning
from reverie.backends.tuning import tune
from reverie.models.store import fetch
from reverie.settings import DEFAULT_MODEL, ModelSettings

pytestmark = pytest.mark.real


async def test_a_real_engine_is_measured_as_far_as_its_settings_leave_anything_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "_SECONDS", 0.2)
    monkeypatch.setattr(tuning, "BATCHES", (64,))
    small = {"slots": 2, "kv_tokens": 2048, "context": 1024, "cache_mib": 0, "threads": 1}
    settings = ModelSettings(name="m", source=DEFAULT_MODEL, **small)
    steps: list[str] = []
    result = await tune(fetch(DEFAULT_MODEL), settings, steps.append)
    assert [(s.threads, s.batch, s.keys) for s in result.speeds] == [
        (1, 16, "auto"),
        (1, 64, "auto"),
        (1, 128, "f16"),
    ]
    assert steps == [
        *("1 thread, batch 16", "1 thread, batch 64"),
        "1 thread, batch 128, f16 keys",
    ]
    assert all(min(s.prompt, s.one, s.all, s.gap) > 0 for s in result.speeds)
    assert result.chosen in result.speeds[:2]
    assert 'cache_type_k = "f16" and batch = 128' in result.reasons[-1]
    assert result.reasons[0] == "threads: as the settings say"
