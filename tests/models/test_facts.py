"""What a model's file says, for people."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reverie.models.facts import facts
from reverie.models.store import fetch
from tests.models.gguf_file import SMALL, gguf, number, tensor, text


@pytest.mark.real
def test_the_default_model_is_described() -> None:
    model = fetch("smollm2-135m")
    found = facts("smollm2-135m")
    assert found is not None
    assert (found.family, found.quantization) == ("llama", "Q4_1")
    assert found.parameters == 134_515_008
    assert found.size == model.stat().st_size
    assert "<|im_start|>" in found.template


def test_what_a_file_does_not_say_is_blank(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf(tensors=(tensor("t", 32, 2),), data=100))
    found = facts(str(file))
    assert found is not None
    assert (found.family, found.quantization, found.template) == ("", "", "")
    assert found.parameters == 64


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(SMALL)
    os.utime(file, (1, 1))
    before = facts(str(file))
    file.write_bytes(gguf(text("general.architecture", "x"), number("general.file_type", 15)))
    after = facts(str(file))
    assert before is not None
    assert after is not None
    assert (before.family, before.modified, before.size) == ("llama", 1, len(SMALL))
    assert (after.family, after.quantization) == ("x", "Q4_K_M")


def test_a_file_that_is_not_there_or_is_none_says_nothing(tmp_path: Path) -> None:
    assert facts(str(tmp_path / "none.gguf")) is None
    assert facts("not in the catalogue") is None
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert facts(str(broken)) is None
