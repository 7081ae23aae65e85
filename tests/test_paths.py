"""Where state is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.paths import state_directory


def test_state_is_kept_where_the_desktop_specification_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_directory() == Path("/home/me/.local/state/reverie")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert state_directory() == Path("/home/me/.local/state/reverie")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_directory() == Path("/state/reverie")
