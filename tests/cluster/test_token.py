from __future__ import annotations

import stat
from pathlib import Path

import pytest

from reverie.cluster.token import (
    TOKEN_VARIABLE,
    default_token_file,
    exposed_token,
    make_token,
    read_token,
)
from reverie.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_the_first_start_makes_a_token_that_only_its_user_can_read() -> None:
    assert make_token(None)
    file = default_token_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(read_token(None)) == 64


def test_later_starts_keep_it() -> None:
    make_token(None)
    first = read_token(None)
    assert not make_token(None)
    assert read_token(None) == first


def test_a_named_file_comes_before_the_variable_and_that_before_the_default(tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.write_text("a" * 20 + "\n")
    make_token(None)
    environ = {TOKEN_VARIABLE: "b" * 20}
    assert read_token(named, environ) == "a" * 20
    assert read_token(None, environ) == "b" * 20
    assert read_token(None, {}) == default_token_file().read_text().strip()


def test_a_machine_without_a_token_is_told_how_to_get_it() -> None:
    with pytest.raises(ConfigurationError, match="reverie cluster token") as caught:
        read_token(None)
    assert str(default_token_file()) in caught.value.problems[0]


@pytest.mark.parametrize(
    "written", ["", "short", "two words of a token", "ünïcödé-ünïcödé-ü", "\0" * 40]
)
def test_what_can_be_no_token_is_refused_and_not_shown(tmp_path: Path, written: str) -> None:
    (tmp_path / "token").write_text(written)
    with pytest.raises(ConfigurationError, match="holds no token") as caught:
        read_token(tmp_path / "token")
    assert not written or written not in caught.value.problems[0]


def test_a_file_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't be written"):
        make_token(tmp_path / "file" / "token")


def test_a_token_that_every_user_may_read_is_told() -> None:
    make_token(None)
    assert exposed_token(None, {}) is None
    default_token_file().chmod(0o640)  # a group may be a service's own
    assert exposed_token(None, {}) is None
    default_token_file().chmod(0o644)
    assert exposed_token(None, {}) == default_token_file()
    assert exposed_token(None, {TOKEN_VARIABLE: "b" * 20}) is None
