from __future__ import annotations

from pathlib import Path

import pytest

from reverie.cluster.membership import remember, remembered
from reverie.settings import ClusterSettings


def test_the_cluster_that_this_machine_joined_last_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert remembered() is None
    remember(ClusterSettings(address="10.0.0.1:6379"))
    last = ClusterSettings(
        address="10.0.0.2:6379",
        token_file=Path("/run/token"),
        tls_cert=Path("c.pem"),
        tls_key=Path("k.pem"),
        tls_ca=Path("a.pem"),
    )
    remember(last)
    assert remembered() == last


def test_a_state_directory_that_can_not_be_written_or_read_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember(ClusterSettings(address="10.0.0.1:6379"))
    assert remembered() is None


def test_what_a_newer_version_has_written_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    remember(ClusterSettings(address="10.0.0.1:6379"))
    [file] = tmp_path.rglob("membership.json")
    file.write_text('{"heads": []}')
    assert remembered() is None
