"""Texts that others wrote, and hosts in URLs."""

from __future__ import annotations

import pytest

from reverie.text import in_url, printable, require_printable, without_folders


@pytest.mark.parametrize("text", ["a\0", "\x1b[31m", "a\nb", "\u202e", "\ud800"])
def test_control_characters_are_refused_and_never_shown(text: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        require_printable(text)
    assert printable(text).isprintable()
    assert printable(text) != text


def test_what_is_shown_is_short() -> None:
    assert printable("x" * 64) == "x" * 64
    assert printable("x" * 65) == "x" * 64 + "…"
    assert len(printable("\x1b" * 10**6)) == 65
    assert require_printable("Ünïcode 模型") == printable("Ünïcode 模型") == "Ünïcode 模型"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/models/m.gguf can't be used", "m.gguf can't be used"),
        ("there is no file ~/m.gguf.", "there is no file m.gguf."),
        ("it is at http://127.0.0.1:9/v1/x", "it is at http://127.0.0.1:9/v1/x"),
        ("write hf:OWNER/REPO", "write hf:OWNER/REPO"),
    ],
)
def test_paths_lose_their_folders_for_those_elsewhere(text: str, shown: str) -> None:
    assert without_folders(text) == shown


@pytest.mark.parametrize(
    ("host", "written"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("gpu-box", "gpu-box")]
)
def test_an_address_of_ipv6_stands_in_brackets_in_a_url(host: str, written: str) -> None:
    assert in_url(host) == written
