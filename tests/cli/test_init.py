"""``reverie init`` writes what ``reverie check`` accepts, and overwrites nothing unasked."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from reverie import cli
from reverie.settings import Settings, StoreSettings, load

Run: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``reverie init`` in an empty folder, with these answers typed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reverie", "init", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        status = ended.value.code
        return status if isinstance(status, int) else 0, printed.out, printed.err

    return command


def test_yes_takes_the_defaults_which_are_those_of_the_server(run: Run, tmp_path: Path) -> None:
    status, out, err = run("--yes")
    assert (status, err) == (0, "")
    written = load(tmp_path / "reverie.toml", environ={})
    usual = Settings()
    assert (written.server, written.store) == (usual.server, usual.store)
    assert written.default_model.source == "smollm2-135m"
    assert "reverie serve" in out
    assert (tmp_path / "reverie.toml").read_text().count("#") > 5


def test_the_usual_store_is_left_out_so_that_each_user_has_their_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--yes")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    store = load(tmp_path / "reverie.toml", environ={}).store
    assert store.url == f"sqlite:///{tmp_path}/another/reverie/reverie.db"


def test_enter_alone_takes_the_same(run: Run, tmp_path: Path) -> None:
    assert run(typed="\n\n\n\n")[0] == 0
    by_enter = (tmp_path / "reverie.toml").read_text()
    (tmp_path / "reverie.toml").unlink()
    run("--yes")
    assert (tmp_path / "reverie.toml").read_text() == by_enter


def test_the_four_answers_are_in_the_file(run: Run, tmp_path: Path) -> None:
    model = "hf:owner/repo/model.gguf"
    status, out, _ = run(typed=f"{model}\n0.0.0.0\ny\nsqlite:///other.db\n")
    assert status == 0
    written = load(tmp_path / "reverie.toml", environ={})
    assert (written.default_model.source, written.default_model.name) == (model, "model")
    assert (written.server.host, written.server.no_auth) == ("0.0.0.0", False)
    assert written.store.url == "sqlite:///other.db"
    assert "reverie keys create --name NAME" in out


def test_a_server_elsewhere_is_a_backend(run: Run, tmp_path: Path) -> None:
    assert run(typed="big=http://127.0.0.1:9100/v1\n\n\nnone\n")[0] == 0
    [model] = load(tmp_path / "reverie.toml", environ={}).models
    assert (model.name, model.backends[0].url) == ("big", "http://127.0.0.1:9100/v1")


def test_an_open_address_without_keys_is_said_plainly(run: Run, tmp_path: Path) -> None:
    assert run(typed="\n0.0.0.0\nn\nnone\n")[0] == 0
    text = (tmp_path / "reverie.toml").read_text()
    assert "Anyone who can reach the port can use it." in text
    assert load(tmp_path / "reverie.toml", environ={}).server.no_auth


def test_keys_without_a_store_come_from_the_environment(run: Run) -> None:
    _, out, _ = run(typed="\n\ny\nnone\n")
    assert "REVERIE_API_KEYS" in out
    assert "keys create" not in out


def test_a_wrong_answer_is_asked_again(run: Run, tmp_path: Path) -> None:
    typed = "nobody-knows\n\n\n\nmysql://a/b\npostgresql://me:secret@host/db\n\n"
    status, out, err = run(typed=typed)
    assert status == 0
    said = out + err
    assert "there is no such model" in said
    assert "REVERIE_STORE_URL" in said
    assert load(tmp_path / "reverie.toml", environ={}).store == StoreSettings()
    assert "secret" not in (tmp_path / "reverie.toml").read_text()


def test_a_text_that_needs_quotes_is_quoted(run: Run, tmp_path: Path) -> None:
    assert run(typed='a "b" \\c=http://127.0.0.1:1/v1\n\n\n\n')[0] == 0
    assert load(tmp_path / "reverie.toml", environ={}).models[0].name == 'a "b" \\c'


def test_a_file_that_is_there_stays_unless_one_says_yes(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "reverie.toml"
    file.write_text("# mine\n")
    status, _, err = run("--yes")
    assert (status, err) == (
        1,
        "error: reverie.toml: is there already; move it away, or leave out --yes\n",
    )
    assert run(typed="\n")[0] == 1
    assert file.read_text() == "# mine\n"
    assert run(typed="y\n\n\n\n\n")[0] == 0
    assert load(file, environ={}).default_model.source == "smollm2-135m"


def test_another_file_is_named_in_what_to_do_next(run: Run, tmp_path: Path) -> None:
    _, out, _ = run("--yes", "--file", "other.toml")
    assert (tmp_path / "other.toml").exists()
    assert "reverie serve --config other.toml" in out


def test_a_folder_that_is_not_there_is_an_error(run: Run) -> None:
    status, _, err = run("--yes", "--file", "none/reverie.toml")
    assert (status, err) == (
        1,
        "error: none/reverie.toml: can't be written: No such file or directory\n",
    )


def test_input_that_ends_writes_nothing(run: Run, tmp_path: Path) -> None:
    assert run(typed="\n")[0] == 1
    assert not (tmp_path / "reverie.toml").exists()
