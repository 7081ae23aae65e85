"""``reverie pull``: what it says of models that need not be fetched, and of mistakes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.command import errors, reverie, reverie_here
from tests.models.gguf_file import SMALL

pytestmark = pytest.mark.integration


def test_a_model_that_is_here_is_named_with_its_path() -> None:
    done = reverie("pull", "smollm2-135m")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("smollm2-135m is already here: /")
    assert done.stdout.endswith("SmolLM2-135M-Instruct.Q4_1.gguf (llama, 98.4 MB)\n")


def test_a_file_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(SMALL)
    assert reverie_here("pull", str(file)).stdout.startswith(
        f"{file} is already here: {file} (llama, "
    )


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("/nowhere/m.gguf", "There is no model file /nowhere/m.gguf. Check the path."),
        ("./" + "n" * 300 + ".gguf", "File name too long"),
        ("/", "/ is a folder, not a model file."),
        (os.devnull, "null is not a GGUF model file."),
        ("none", "no such model in the catalogue (smollm2-135m)"),
        ("", "no such model in the catalogue (smollm2-135m)"),
        ("~no-such-user/m.gguf", "no home folder"),
        ("hf:none", "write hf:OWNER/REPO or hf:OWNER/REPO/FILE.gguf."),
    ],
)
def test_a_mistake_is_one_sentence(ref: str, reason: str) -> None:
    (mistake,) = errors(reverie_here("pull", ref))
    assert reason in mistake


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(SMALL[:-1])
    (mistake,) = errors(reverie_here("pull", str(file)))
    assert "was not downloaded whole" in mistake


def test_help_names_the_three_forms() -> None:
    said = " ".join(reverie_here("pull", "--help").stdout.split())
    assert "smollm2-135m), hf:OWNER/REPO[/FILE.gguf], or a path" in said
