"""Values of the configuration as an operator reads them elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.gateway.serving.config_text import table_of, text_of
from reverie.settings import ModelSettings, ServerSettings, StoreSettings


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("queue_size", 5, "5"),
        ("queue_timeout", 30.0, "30"),
        ("queue_timeout", 0.5, "0.5"),
        ("no_auth", True, "true"),
        ("host", "::1", '"::1"'),
        ("allow_origins", ("https://a.example", "null"), '["https://a.example", "null"]'),
        ("api_keys_file", "/etc/secret-folder/keys", '"keys"'),
        ("api_keys_file", None, None),
    ],
)
def test_a_value_is_written_as_in_the_file(key: str, value: Any, text: str | None) -> None:
    assert text_of(ServerSettings.model_validate({key: value}), key) == text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("none", '"none"'),
        ("sqlite:////var/lib/secret-folder/reverie.db", '"sqlite:///reverie.db"'),
        (
            "postgresql://me:secret-word@db.example:5432/reverie",
            '"postgresql://me:***@db.example:5432/reverie"',
        ),
        ("postgresql://me@db.example/reverie?password=secret", '"postgresql://me@db.example/reverie"'),
        ("mysql://me:secret@host/db", '"…"'),
    ],
)  # fmt: skip
def test_a_stores_url_keeps_its_secrets(url: str, text: str) -> None:
    assert text_of(StoreSettings(url=url), "url") == text


def test_a_model_is_told_by_what_is_set_of_it() -> None:
    model = ModelSettings.model_validate(
        {
            "name": "m",
            "source": "/srv/secret-folder/m.gguf",
            "engine": "/opt/secret-folder/llama-server",
            "price": {"input": "1USD"},
            "warm": False,
        }
    )
    assert table_of(model) == (
        '{ name = "m", source = "m.gguf", price = { input = "1USD" }, '
        'engine = "llama-server", warm = false }'
    )


def test_a_long_value_is_cut() -> None:
    text = text_of(ServerSettings(allow_origins=("https://a.example",) * 60), "allow_origins")
    assert text is not None
    assert (len(text), text[-1]) == (500, "…")
