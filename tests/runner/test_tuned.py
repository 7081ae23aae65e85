"""What was measured is kept, found where it holds, and forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.paths import state_directory
from reverie.runner.options import XLLAMACPP
from reverie.runner.tuned import FILE, Tuned, conditions_of, forget, keep, kept

CHOSEN = Tuned(threads=3, batch=96)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return file(tmp_path / "m.gguf")


def file(path: Path, content: str = "x") -> Path:
    path.write_text(content)
    return path


def test_a_result_is_found_where_it_holds_and_nowhere_else(model: Path, tmp_path: Path) -> None:
    here = conditions_of(model, XLLAMACPP)
    assert kept(here) is None
    keep(here, CHOSEN)
    assert kept(conditions_of(model, XLLAMACPP)) == CHOSEN
    own = file(tmp_path / "llama-server")
    other_model, same_name = file(tmp_path / "n.gguf"), file(model, "longer")
    for elsewhere in (
        conditions_of(other_model, XLLAMACPP),
        conditions_of(same_name, XLLAMACPP),
        conditions_of(model, str(own)),
        here.__class__(here.model, here.size, here.engine, "another CPU", here.cores),
    ):
        assert kept(elsewhere) is None


def test_a_new_result_takes_the_place_of_the_last(model: Path) -> None:
    here = conditions_of(model, XLLAMACPP)
    keep(here, Tuned(1, 32))
    keep(here, CHOSEN)
    assert kept(here) == CHOSEN
    assert forget() == 1


def test_those_of_one_model_or_all_are_forgotten(model: Path, tmp_path: Path) -> None:
    other = file(tmp_path / "n.gguf")
    for one in (model, other):
        keep(conditions_of(one, XLLAMACPP), CHOSEN)
    assert forget(model) == 1
    assert kept(conditions_of(model, XLLAMACPP)) is None
    assert kept(conditions_of(other, XLLAMACPP)) == CHOSEN
    assert forget() == 1
    assert forget() == 0


@pytest.mark.parametrize("content", ["", "{}", '[{"tuned": 1}]'])
def test_a_file_that_makes_no_sense_counts_as_empty(model: Path, content: str) -> None:
    here = conditions_of(model, XLLAMACPP)
    keep(here, CHOSEN)
    file(state_directory() / FILE, content)
    assert kept(here) is None
    keep(here, CHOSEN)
    assert kept(here) == CHOSEN
