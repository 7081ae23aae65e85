"""The options of the server, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.cli.options import settings_of


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_option_that_is_not_given_leaves_the_file_alone(folder: Path) -> None:
    (folder / "reverie.toml").write_text('[server]\nhost = "127.0.0.2"\nport = 1\n')
    server = settings_of(None, 2, None, None, None).server
    assert (server.host, server.port, server.no_auth) == ("127.0.0.2", 2, False)


@pytest.mark.parametrize("ref", ["smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_model_of_the_catalogue_answers_to_all_its_names(ref: str) -> None:
    (model,) = settings_of(None, None, None, ref, None).models
    assert model.name == "smollm2-135m"
    assert model.aliases == ("HuggingFaceTB/SmolLM2-135M-Instruct",)
    assert model.default


def test_ollamas_api_is_on_by_the_option_or_by_the_file(folder: Path) -> None:
    def is_on(option: bool | None) -> bool:
        return settings_of(None, None, None, None, None, ollama=option).server.ollama

    assert not is_on(None)
    assert is_on(True)
    (folder / "reverie.toml").write_text("[server]\nollama = true\n")
    assert is_on(None)
