"""``/v1/models``: the models that are served, in OpenAI's shape."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from reverie.gateway.serving.abilities import sees_images
from reverie.gateway.serving.defaults import if_all_open
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.serving.served_models import ServedModel
from reverie.http.access import Access
from reverie.http.operations.errors import not_found
from reverie.http.operations.security import checked_router
from reverie.money import price_to_json

PATHS = ("/v1/models", "/models", "/llm/models")
"""The same under each; the first is in the API's description."""


def routes(registry: ModelRegistry, access: Access) -> APIRouter:
    router = checked_router("models", access.admit)

    async def list_models() -> dict[str, Any]:
        data = [
            _entry(model, name)
            for model in registry.models.all
            for name in (model.name, *model.settings.aliases)
        ]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"object": "list", "data": data, "has_more": False, **ends}

    async def show_model(name: str) -> dict[str, Any]:
        return _entry(registry.models.find(name), name)

    for path in PATHS:
        shown = path == PATHS[0]
        router.get(path, summary="The models served here", include_in_schema=shown)(list_models)
        router.get(
            path + "/{name:path}",
            summary="One model",
            include_in_schema=shown,
            responses=not_found("No model has this name"),
        )(show_model)
    return router


def _entry(model: ServedModel, name: str) -> dict[str, Any]:
    """One name of a model; an alias says what it stands for."""
    entry: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "reverie",
        "loaded": model.state == "ready",
        "task": model.settings.task,
        # The same for Anthropic's clients.
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    entry["pricing"] = price_to_json(model.price)
    if model.settings.task == "generate":
        entry["input_modalities"] = ["text", "image"] if sees_images(model) else ["text"]
        entry["defaults"] = if_all_open(model.defaults)
    contexts = [b.context for b in model.pool.backends or model.pool.examples]
    if all(contexts):
        entry["max_input_tokens"] = max(context or 0 for context in contexts)
    if name != model.name:
        entry["alias_of"] = model.name
    return entry
