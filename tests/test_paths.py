"""Where state is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.errors import ConfigurationError
from reverie.paths import make_folder, state_directory


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


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(ConfigurationError, match=r"XDG_STATE_HOME: .* set it to a folder"):
        state_directory()


def test_nobody_else_can_look_into_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    make_folder(state_directory() / "logs" / "deep")
    assert state_directory().stat().st_mode & 0o777 == 0o700
    make_folder(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere").is_dir()
