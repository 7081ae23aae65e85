"""The served models in Ollama's form: what is known of each, and honest blanks for the rest."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

from reverie.gateway.serving.abilities import generates_text, sees_images, takes_tools
from reverie.gateway.serving.names import tagged
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.dialects.ollama import moment
from reverie.models.catalogue import look_up
from reverie.models.facts import Facts, facts

NEVER = "0001-01-01T00:00:00Z"
"""Go's time of nothing, which Ollama's clients show as "Never"."""
_UNKNOWN = "unknown"
_THINKING = ("<think>", "enable_thinking", "reasoning_content", "reasoning_effort")
"""What a chat template holds if its model thinks before it answers."""


async def tags(models: list[ServedModel]) -> dict[str, Any]:
    """All models, an entry for each name and alias."""
    entries = [await _entries(model) for model in models]
    return {"models": [entry for some in entries for entry in some]}


async def running(models: list[ServedModel]) -> dict[str, Any]:
    """The models that can answer at once."""
    entries = []
    for model in models:
        if model.state == "ready":
            known = await _facts_of(model)
            on_demand = model.deployment.on_demand
            entries.append(
                {
                    **_entry(model, model.name, known),
                    "size": 0 if on_demand is None else on_demand.memory,
                    "size_vram": 0,
                    "expires_at": _expires(model),
                    "context_length": _context(model),
                }
            )
    return {"models": entries}


async def show(model: ServedModel) -> dict[str, Any]:
    """One model in detail."""
    known = await _facts_of(model)
    family = known.family if known is not None and known.family else _UNKNOWN
    info: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": model.name,
        f"{family}.context_length": _context(model),
    }
    if known is not None:
        info["general.parameter_count"] = known.parameters
    entry = look_up(model.settings.source or "")
    return {
        "modelfile": "",
        "parameters": "",
        "license": "" if entry is None else entry.licence,
        "template": "" if known is None else known.template,
        "details": _details(model, known),
        "model_info": info,
        "capabilities": _capabilities(model, known),
        "modified_at": _modified(model, known),
    }


async def _entries(model: ServedModel) -> list[dict[str, Any]]:
    known = await _facts_of(model)
    capabilities = _capabilities(model, known)
    size = 0 if known is None else known.size
    return [
        {**_entry(model, name, known), "size": size, "capabilities": capabilities}
        for name in model.names
    ]


async def _facts_of(model: ServedModel) -> Facts | None:
    source = model.settings.source
    return None if source is None else await asyncio.to_thread(facts, source)


def _entry(model: ServedModel, name: str, known: Facts | None) -> dict[str, Any]:
    """What lists say of a name of a model."""
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": _modified(model, known),
        "digest": _digest(model),
        "details": _details(model, known),
    }


def _details(model: ServedModel, known: Facts | None) -> dict[str, Any]:
    family = "" if known is None else known.family
    return {
        "parent_model": "",
        "format": "" if known is None else "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "" if known is None else human(known.parameters),
        "quantization_level": "" if known is None else known.quantization,
        "context_length": _context(model),
    }


def _modified(model: ServedModel, known: Facts | None) -> str:
    """When its file was written, or when this server began to serve it."""
    return moment(model.created if known is None else known.modified)


def _digest(model: ServedModel) -> str:
    """The file's SHA-256 where that is known. Else one of the name: Ollama's command line cuts it,
    and fails on an empty one."""
    entry = look_up(model.settings.source or "")
    return hashlib.sha256(model.name.encode()).hexdigest() if entry is None else entry.sha256


def _context(model: ServedModel) -> int:
    """Tokens that one request may use; 0: unknown."""
    return max(b.context or 0 for b in model.pool.backends or model.pool.examples)


def _capabilities(model: ServedModel, known: Facts | None) -> list[str]:
    able = {
        "completion": generates_text(model),
        "tools": takes_tools(model),
        "vision": sees_images(model),
        "thinking": known is not None and any(mark in known.template for mark in _THINKING),
    }
    return [name for name, is_able in able.items() if is_able]


def _expires(model: ServedModel) -> str:
    """When the model will be unloaded, if nobody asks for it until then."""
    on_demand, after = model.deployment.on_demand, model.settings.idle_unload
    if on_demand is None or not after:
        return NEVER
    idle = 0.0 if on_demand.in_use else time.monotonic() - on_demand.last_used
    return moment(int(time.time() + after - idle))


def human(count: int) -> str:
    """A number of parameters as Ollama writes it: ``134.52M``, ``8.0B``."""
    if count >= 1e9:
        return f"{count / 1e9:.1f}B"
    if count >= 1e6:
        return f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.0f}K" if count >= 1e3 else str(count)
