"""Which keys differ between two configurations, and how."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel

from reverie.gateway.serving.config_text import table_of, text_of
from reverie.settings import ClusterSettings, Settings

FIXED_SERVER_KEYS = (
    "host",
    "port",
    "no_auth",
    "log_format",
    "access_log",
    "trusted_proxies",
    "allow_origins",
    "ollama",
    "workers",
)
"""The keys of ``[server]`` that can't change while the process runs. Nor can any of ``[store]``,
``[traces]`` and ``[cluster]``."""


class Difference(NamedTuple):
    """One key, or a whole model, by its name."""

    key: str
    before: str | None
    """As text, without secrets; None: it wasn't there."""
    after: str | None


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
    differences: list[Difference]
    """All of these, with what they were and what they are."""


def compare(old: Settings, new: Settings) -> Changes:
    """List the differences between two configurations."""
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    added = [name for name in after if name not in before]
    removed = [name for name in before if name not in after]
    server = _differing("server", old.server, new.server)
    fixed = {f"server.{key}" for key in FIXED_SERVER_KEYS}
    changed = [one for one in server if one.key not in fixed]
    if old.default_model.name != new.default_model.name:
        changed.append(Difference("default", old.default_model.name, new.default_model.name))
    for name in before.keys() & after.keys():
        found = _differing(name, before[name], after[name])
        changed += [one for one in found if one.key != f"{name}.default"]
    changed.sort()
    restart = [one for one in server if one.key in fixed]
    restart += _differing("store", old.store, new.store)
    restart += _differing("traces", old.traces, new.traces)
    restart += _differing_clusters(old.cluster, new.cluster)
    return Changes(
        added=added,
        removed=removed,
        changed=[one.key for one in changed],
        needs_restart=[one.key for one in restart],
        differences=[
            *(Difference(name, None, table_of(after[name])) for name in added),
            *(Difference(name, table_of(before[name]), None) for name in removed),
            *changed,
            *restart,
        ],
    )


def applicable(old: Settings, new: Settings) -> Settings:
    """``new``, with the keys that can't change while the process runs as they are in ``old``."""
    fixed = {key: getattr(old.server, key) for key in FIXED_SERVER_KEYS}
    return new.model_copy(
        update={
            "server": new.server.model_copy(update=fixed),
            "store": old.store,
            "traces": old.traces,
            "cluster": old.cluster,
        }
    )


def _differing(name: str, old: BaseModel, new: BaseModel) -> list[Difference]:
    """The keys of a section that differ, each with the section's name."""
    return [
        Difference(f"{name}.{key}", text_of(old, key), text_of(new, key))
        for key in type(old).model_fields
        if getattr(old, key) != getattr(new, key)
    ]


def _differing_clusters(
    old: ClusterSettings | None, new: ClusterSettings | None
) -> list[Difference]:
    """The keys of ``[cluster]`` that differ, or the whole where one has none."""
    if old is not None and new is not None:
        return _differing("cluster", old, new)
    if old is new:
        return []
    written = [None if one is None else table_of(one) for one in (old, new)]
    return [Difference("cluster", *written)]
