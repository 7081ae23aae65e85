from __future__ import annotations

import pytest

from reverie.http.connection.paths import normal


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("/llm", "/llm"),
        ("/llm/", "/llm"),
        ("//llm//", "/llm"),
        ("/v1///chat//completions", "/v1/chat/completions"),
        ("/", "/"),
        ("//", "/"),
        ("", "/"),
    ],
)
def test_slashes_that_say_nothing_are_left_out(written: str, known: str) -> None:
    assert normal(written) == known
