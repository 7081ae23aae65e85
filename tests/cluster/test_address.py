from __future__ import annotations

from pathlib import Path

import pytest

from reverie.cluster.address import remember_head, remembered_head


def test_the_head_that_this_machine_went_with_last_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert remembered_head() is None
    remember_head("10.0.0.1:6379")
    remember_head("10.0.0.2:6379")
    assert remembered_head() == "10.0.0.2:6379"


def test_a_state_directory_that_can_not_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember_head("10.0.0.1:6379")
    assert remembered_head() is None
