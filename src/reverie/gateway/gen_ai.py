"""What OpenTelemetry's conventions for generative AI call what is done here."""

from __future__ import annotations

PROVIDER = "reverie"
"""``gen_ai.provider.name``: the one that a caller's telemetry would name, too."""

_OPERATIONS = {
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/tokenize": None,
    "/detokenize": None,
    "/v1/responses/{id}": None,
    "/v1/responses/{id}/cancel": None,
}


def operation_of(route: str) -> str | None:
    """``gen_ai.operation.name`` of what a route does; None: it generates nothing."""
    return _OPERATIONS.get(route, "chat")
