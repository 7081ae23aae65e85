"""Which keys differ between two configurations."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel

from reverie.settings import Settings

FIXED_SERVER_KEYS = (
    "host",
    "port",
    "no_auth",
    "log_format",
    "trusted_proxies",
    "allow_origins",
    "ollama",
)
"""The keys of ``[server]`` that can't change while the process runs. Nor can any of ``[store]``."""


class Changes(NamedTuple):
    """Models by name, and keys with dots: ``server.queue_size``, ``MODEL.price``."""

    added: list[str]
    """Models."""
    removed: list[str]
    """Models."""
    changed: list[str]
    """Keys."""
    needs_restart: list[str]
    """Keys whose change takes effect only after a restart."""


def compare(old: Settings, new: Settings) -> Changes:
    """List the differences between two configurations."""
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    server = _differing(old.server, new.server)
    changed = [f"server.{key}" for key in server if key not in FIXED_SERVER_KEYS]
    if old.default_model.name != new.default_model.name:
        changed.append("default")
    for name in before.keys() & after.keys():
        keys = _differing(before[name], after[name])
        changed += [f"{name}.{key}" for key in keys if key != "default"]
    return Changes(
        added=[name for name in after if name not in before],
        removed=[name for name in before if name not in after],
        changed=sorted(changed),
        needs_restart=[f"server.{key}" for key in server if key in FIXED_SERVER_KEYS]
        + [f"store.{key}" for key in _differing(old.store, new.store)],
    )


def applicable(old: Settings, new: Settings) -> Settings:
    """``new``, with the keys that can't change while the process runs as they are in ``old``."""
    fixed = {key: getattr(old.server, key) for key in FIXED_SERVER_KEYS}
    return new.model_copy(
        update={"server": new.server.model_copy(update=fixed), "store": old.store}
    )


def _differing(old: BaseModel, new: BaseModel) -> list[str]:
    def values(section: BaseModel) -> dict[str, Any]:
        return {key: getattr(section, key) for key in type(section).model_fields}

    before, after = values(old), values(new)
    return [key for key in before if before[key] != after[key]]
