"""Which keys differ between two configurations."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.gateway.serving.config_diff import Changes, applicable, compare
from reverie.settings import Settings

A = {"name": "a", "source": "a.gguf"}
B = {"name": "b", "source": "b.gguf"}


def settings(*models: dict[str, Any], **sections: dict[str, Any]) -> Settings:
    return Settings.model_validate({"models": models or [A], **sections})


def test_equal_configurations_differ_in_nothing() -> None:
    assert compare(settings(A, B), settings(A, B)) == Changes([], [], [], [], [])


def test_models_are_added_and_removed_by_name() -> None:
    changes = compare(settings(A), settings({**A, "name": "c"}, B))
    assert (changes.added, changes.removed) == (["c", "b"], ["a"])
    assert compare(settings(A), settings(A, B)).changed == []


def test_keys_of_a_model_are_named_with_it() -> None:
    after = {**A, "aliases": ["x"], "limits": {"rpm": 1}, "idle_unload": 60}
    assert compare(settings(A), settings(after)).changed == [
        "a.aliases",
        "a.idle_unload",
        "a.limits",
    ]


def test_another_default_is_one_change_however_it_is_written() -> None:
    assert compare(settings(A, B), settings(B, A)).changed == ["default"]
    assert compare(settings(A, B), settings(A, {**B, "default": True})).changed == ["default"]
    assert compare(settings(A, B), settings({**A, "default": True}, B)).changed == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "host", "::1"),
        ("server", "port", 1),
        ("server", "no_auth", True),
        ("server", "log_format", "json"),
        ("server", "access_log", "access.log"),
        ("store", "url", "none"),
        ("store", "timeout", 1.0),
        ("traces", "endpoint", "http://collector:4318"),
        ("traces", "sample", 0.5),
    ],
)
def test_what_is_fixed_needs_a_restart_and_stays_as_it_was(
    section: str, key: str, value: Any
) -> None:
    old, new = settings(), settings(**{section: {key: value}})
    changes = compare(old, new)
    assert (changes.changed, changes.needs_restart) == ([], [f"{section}.{key}"])
    assert applicable(old, new) == old


def test_everything_else_is_applied() -> None:
    old = settings(A)
    new = settings(A, B, server={"queue_size": 1, "port": 1}, store={"timeout": 1})
    applied = applicable(old, new)
    assert compare(old, new).changed == ["server.queue_size"]
    assert (applied.server.queue_size, applied.server.port) == (1, old.server.port)
    assert (applied.models, applied.store) == (new.models, old.store)
