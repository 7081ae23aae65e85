"""``reverie tune``: what it measures, keeps and forgets, as its user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import errors, reverie

pytestmark = pytest.mark.integration

SMALL = """
[[models]]
name = "m"
source = "smollm2-135m"
slots = 2
context = 1024
kv_tokens = 2048
threads = 1
batch = 32
[[models]]
name = "far"
backends = [{url = "http://127.0.0.1:1/v1"}]
[[models]]
name = "vectors"
source = "smollm2-135m"
task = "embed"
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "reverie.toml"
    file.write_text(SMALL)
    return str(file)


def test_what_was_measured_is_printed_kept_and_forgotten(tmp_path: Path, config: str) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    done = reverie("tune", "m", "--config", config, "--json", **state)
    result = json.loads(done.stdout)
    assert (result["model"], result["chosen"]["threads"], result["chosen"]["batch"]) == ("m", 1, 32)
    assert done.stderr == "measuring 1 thread, batch 32 …\n"
    kept = json.loads((tmp_path / "state" / "reverie" / "tuned.json").read_bytes())
    assert [entry["tuned"] for entry in kept] == [{"threads": 1, "batch": 32}]
    assert reverie("tune", "--forget", **state).stdout == "Forgot 1 result.\n"
    assert reverie("tune", "m", "--config", config, "--forget", **state).stdout == (
        "Forgot 0 results.\n"
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("far", "far is reached elsewhere: only models that run here are tuned."),
        ("vectors", "vectors generates nothing: there is nothing to tune."),
        ("none", "no such model in the catalogue"),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence(config: str, model: str, reason: str) -> None:
    (mistake,) = errors(reverie("tune", model, "--config", config))
    assert reason in mistake


def test_a_small_context_is_measured_with_prompts_that_fit_it(tmp_path: Path) -> None:
    file = tmp_path / "reverie.toml"
    small = SMALL.replace("context = 1024\nkv_tokens = 2048", "context = 256\nkv_tokens = 512")
    file.write_text(small)
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    done = reverie("tune", "m", "--config", str(file), "--json", **state)
    assert json.loads(done.stdout)["chosen"]["prompt"] > 0


def test_a_context_in_which_nothing_can_be_measured_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "reverie.toml"
    file.write_text(SMALL.replace("context = 1024", "context = 128"))
    done = reverie("tune", "m", "--config", str(file))
    assert done.returncode == 1
    assert done.stderr.endswith(
        "\nerror: A context of 128 tokens is too small to be measured: at least 256 are needed.\n"
    )


def test_to_forget_a_model_that_is_not_here_fetches_nothing(tmp_path: Path) -> None:
    empty = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = reverie("tune", "smollm2-135m", "--forget", **empty)
    assert done.stdout == "Forgot 0 results.\n"
    assert not (tmp_path / "cache").exists()
