"""What can be fetched by name. ``http/admin/test_pulls`` has the rest."""

from __future__ import annotations

import pytest

from reverie.models import offers as module
from reverie.models.offers import offers
from reverie.models.suggestions import fitting

GB = 10**9


@pytest.mark.parametrize("memory", [0, 4 * GB, 64 * GB])
def test_what_fits_is_what_is_suggested(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find", lambda source: None)
    pinned, *others = offers(memory)
    assert {one["source"] for one in others if one["fits"]} == {one.ref for one in fitting(memory)}
    assert (pinned["fits"], pinned["here"]) == (memory > 0, False)
    assert others[0]["title"] == others[0]["source"].split("/")[-1].removesuffix(".gguf")
