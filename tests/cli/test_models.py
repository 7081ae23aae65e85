"""``reverie models``: what can be served, and what is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reverie.models.catalogue import CATALOGUE
from reverie.models.suggestions import fitting
from reverie.runner.resources import usable_memory
from tests.cli.command import errors, reverie

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf"


def cache(hf_home: Path, repo: str, **files: int) -> Path:
    """Lay files of these sizes into the hub's cache, as huggingface_hub does."""
    folder = hf_home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    for path in (snapshot, folder / "refs", folder / "blobs"):
        path.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    for name, size in files.items():
        (folder / "blobs" / name).write_bytes(bytes(size))
        (snapshot / name).symlink_to(folder / "blobs" / name)
    return snapshot


def listed(**environ: str) -> list[dict[str, Any]]:
    done = reverie("models", "--json", **environ)
    assert (done.returncode, done.stderr) == (0, "")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_json_names_the_file_that_is_here() -> None:
    (row,) = listed()
    assert {**row, "path": None} == {
        "name": "smollm2-135m",
        "aliases": ["HuggingFaceTB/SmolLM2-135M-Instruct"],
        "size": 98_362_432,
        "licence": "Apache-2.0",
        "path": None,
    }
    assert Path(row["path"]).stat().st_size == row["size"]


def test_json_tells_what_is_not_here(tmp_path: Path) -> None:
    assert [row["path"] for row in listed(REVERIE_HOME=str(tmp_path))] == [None]


def test_models_of_the_hubs_cache_are_listed_whole_with_their_reference(hf_home: Path) -> None:
    snapshot = cache(hf_home, "owner/b", **{"m.Q4_0.gguf": 100, "README.md": 5, "mmproj.gguf": 7})
    parts = {f"s-{number:05}-of-00002.gguf": 10 for number in (1, 2)}
    cache(hf_home, "owner/split", **parts)
    cache(hf_home, "owner/unfinished", **{"u-00001-of-00002.gguf": 10})
    _, *rows = listed()
    assert [(row["name"], row["size"]) for row in rows] == [
        ("hf:owner/b/m.Q4_0.gguf", 100),
        ("hf:owner/split/s-00001-of-00002.gguf", 20),
    ]
    assert rows[0]["path"] == str(snapshot / "m.Q4_0.gguf")


def test_the_table_shows_paths_whole_however_narrow_the_terminal_is(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 20)
    (home / "models").mkdir(parents=True)
    with (home / "models" / CATALOGUE[0].file).open("wb") as file:
        file.truncate(CATALOGUE[0].size)
    done = reverie("models", REVERIE_HOME=str(home), COLUMNS="40")
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["name", "size", "licence", "where"]
    assert row.split() == [
        "smollm2-135m", "98.4", "MB", "Apache-2.0", f"{home}/models/{CATALOGUE[0].file}",
    ]  # fmt: skip


def test_the_table_says_how_to_get_what_is_not_here(tmp_path: Path) -> None:
    done = reverie("models", REVERIE_HOME=str(tmp_path))
    assert done.stdout.splitlines()[1].endswith("not here: reverie pull smollm2-135m")


def test_suggestions_come_with_sizes_and_say_what_they_are_and_that_none_is_pinned() -> None:
    done = reverie("models", "--suggest", COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    said, _, rows = done.stdout.partition("\n\n")
    assert "GB of memory" in said
    heading, *lines = rows.partition("\n\n")[0].splitlines()
    assert heading.split() == ["file", "memory", "runs", "on", "licence", "good", "for", "model"]
    refs = [line.split()[-1] for line in lines]
    assert refs == [row["name"] for row in suggested()]
    assert set(refs) >= {one.ref for one in fitting(usable_memory())}  # a GPU may have more
    assert "estimates" in done.stdout
    assert "not pinned" in done.stdout


def test_suggestions_as_json_are_in_bytes_and_fit_into_this_machine() -> None:
    rows = suggested()
    assert rows
    for row in rows:
        assert row["size"] < row["memory"]
        assert row["fits_gpu"] or row["memory"] < usable_memory()
        assert row["pinned"] is False


def suggested() -> list[dict[str, Any]]:
    done = reverie("models", "--suggest", "--json")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_no_home_folder_is_one_sentence() -> None:
    (mistake,) = errors(reverie("models", REVERIE_HOME="~no-such-user/x"))
    assert "set REVERIE_HOME" in mistake
