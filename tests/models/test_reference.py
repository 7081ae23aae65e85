"""The three forms of a reference to a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie.errors import ModelError
from reverie.models.catalogue import CATALOGUE
from reverie.models.reference import FileReference, HubReference, name_of, parse
from reverie.settings import ModelSettings


@pytest.mark.parametrize("ref", ["smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_the_catalogue_is_known_by_name_and_alias(ref: str) -> None:
    assert parse(ref) is CATALOGUE[0]
    assert name_of(ref) == "smollm2-135m"


@pytest.mark.parametrize(
    ("ref", "repo", "file", "name"),
    [
        ("hf:owner/repo", "owner/repo", None, "repo"),
        ("hf:o-1/My.Model_2-GGUF", "o-1/My.Model_2-GGUF", None, "My.Model_2-GGUF"),
        ("hf:owner/repo/model.Q4_0.gguf", "owner/repo", "model.Q4_0.gguf", "model.Q4_0"),
        ("hf:owner/repo/sub/dir/m.GGUF", "owner/repo", "sub/dir/m.GGUF", "m"),
    ],
)
def test_the_hub_is_a_repository_and_perhaps_a_file(
    ref: str, repo: str, file: str | None, name: str
) -> None:
    assert parse(ref) == HubReference(repo, file)
    assert name_of(ref) == name


@pytest.mark.parametrize("ref", ["/m/a.gguf", "./a.gguf", "../a.gguf", "a.gguf", "m/A.GGUF", "./a"])
def test_a_path_is_what_looks_like_one(ref: str) -> None:
    assert parse(ref) == FileReference(Path(ref))
    assert name_of(ref) == Path(ref).stem


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse("~/a.gguf") == FileReference(Path("/home/somebody/a.gguf"))


@pytest.mark.parametrize(
    "ref",
    [
        "hf:",
        "hf:repo",
        "hf:owner/",
        "hf:/repo",
        "hf:owner/repo/",
        "hf:owner/repo/model.bin",
        "hf:owner/repo/.gguf",
        "hf:owner/repo/a/../../../b.gguf",
        "hf:owner/repo//a.gguf",
        "hf:owner/repo/a\n.gguf",
        "hf:../repo",
        "hf:own er/repo",
        "hf:-owner/repo",
        "hf:owner--x/repo",
        "hf:owner/repo.",
        "hf:öwner/repo",
        "hf:owner/" + "r" * 97,
    ],
)
def test_a_wrong_hub_reference_is_answered_with_the_right_form(ref: str) -> None:
    with pytest.raises(ModelError, match=r"write hf:OWNER/REPO or hf:OWNER/REPO/FILE\.gguf\.$"):
        parse(ref)


@pytest.mark.parametrize("ref", ["", "smollm2", "SMOLLM2-135M", "owner/repo", "http://x/y"])
def test_a_name_that_is_not_known_is_answered_with_the_catalogue_and_the_forms(ref: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse(ref)
    message = str(caught.value)
    assert "smollm2-135m" in message
    assert "hf:OWNER/REPO[/FILE.gguf]" in message
    with pytest.raises(ModelError):
        name_of(ref)


def test_the_root_folder_has_no_name_to_serve_it_by() -> None:
    with pytest.raises(ModelError, match="is a folder"):
        name_of("/")


def test_a_name_is_no_longer_than_the_configuration_allows() -> None:
    assert ModelSettings(name=name_of("./" + "n" * 250 + ".gguf"), source="s").name == "n" * 200


def test_a_strangers_home_folder_is_a_mistake_not_a_crash() -> None:
    with pytest.raises(ModelError, match="no home folder"):
        parse("~no-such-user/a.gguf")
