"""Names with and without Ollama's tag."""

from __future__ import annotations

import pytest

from reverie.gateway.serving.names import other_spelling, tagged


@pytest.mark.parametrize(("name", "other"), [("m", "m:latest"), ("o/m", "o/m:latest")])
def test_the_tag_latest_says_nothing(name: str, other: str) -> None:
    assert other_spelling(name) == other
    assert other_spelling(other) == name


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("m", "m:latest"),
        ("m:7b", "m:7b"),
        ("owner/m", "owner/m:latest"),
        ("host:80/m", "host:80/m:latest"),
    ],
)
def test_a_name_is_listed_with_a_tag(name: str, listed: str) -> None:
    assert tagged(name) == listed
