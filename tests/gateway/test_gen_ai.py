"""What is done here has the names that OpenTelemetry gave it."""

from __future__ import annotations

import pytest

from reverie.gateway.gen_ai import operation_of


@pytest.mark.parametrize(
    ("route", "operation"),
    [
        ("/llm", "chat"),
        ("/v1/chat/completions", "chat"),
        ("/v1/messages", "chat"),
        ("/v1/responses", "chat"),
        ("/api/chat", "chat"),
        ("/v1/completions", "text_completion"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/rerank", "rerank"),
        ("/tokenize", None),
        ("/v1/responses/{id}", None),
        ("/v1/responses/{id}/cancel", None),
    ],
)
def test_an_operation_follows_from_its_route(route: str, operation: str | None) -> None:
    assert operation_of(route) == operation
