"""The routes of plain ASGI callables: those that generate, count, embed; Ollama's; the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from reverie.gateway.accounts.admission import Admission
from reverie.gateway.metrics import Metrics
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http import kept_responses
from reverie.http.access import Access
from reverie.http.cancel_chat import PATH as CANCEL_CHAT
from reverie.http.cancel_chat import CancelChat
from reverie.http.connection.exchange import Receive, Scope, Send
from reverie.http.connection.in_flight import InFlight
from reverie.http.count_tokens import CountTokens
from reverie.http.dialects import (
    COMPLETIONS,
    LIVEPEER,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    OPENAI,
    RESPONSES,
)
from reverie.http.dialects.base import Dialect
from reverie.http.generate import Generate
from reverie.http.idempotency.replays import Replays
from reverie.http.kept_responses import KeptResponses
from reverie.http.ollama.generate import OllamaGenerate
from reverie.http.ollama.routes import TASKS as OLLAMA_TASKS
from reverie.http.ollama.routes import OllamaRoutes
from reverie.http.page.route import ROOT, Page, wants_page
from reverie.http.request import messages, responses
from reverie.http.tasks.route import ROUTES as TASK_ROUTES
from reverie.http.tasks.route import RunTask

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_GENERATION: dict[str, Dialect] = {
    "/llm": LIVEPEER,
    "/v1/chat/completions": OPENAI,
    "/chat/completions": OPENAI,
    "/llm/chat/completions": OPENAI,
    "/v1/completions": COMPLETIONS,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
}
_OLLAMA: dict[str, Dialect] = {
    "/api/chat": OLLAMA_CHAT,
    "/api/generate": OLLAMA_GENERATE,
}


class Routes:
    """Finds what answers on a path.

    Args:
        ollama: whether Ollama's API is served.
    """

    def __init__(
        self,
        *,
        registry: ModelRegistry,
        access: Access,
        admission: Admission,
        in_flight: InFlight,
        metrics: Metrics,
        replays: Replays,
        ollama: bool,
    ) -> None:
        def generating(kind: type[Generate], dialect: Dialect) -> Generate:
            return kind(
                dialect,
                registry=registry,
                access=access,
                admission=admission,
                in_flight=in_flight,
                metrics=metrics,
                replays=replays,
            )

        self._by_path: dict[str, Application] = {
            path: generating(Generate, dialect) for path, dialect in _GENERATION.items()
        }
        self._by_path["/v1/messages/count_tokens"] = CountTokens(
            MESSAGES,
            messages.parse_to_count,
            registry=registry,
            access=access,
            in_flight=in_flight,
        )
        self._by_path["/v1/responses/input_tokens"] = CountTokens(
            RESPONSES,
            responses.parse_to_count,
            registry=registry,
            access=access,
            in_flight=in_flight,
            about={"object": "response.input_tokens"},
        )
        self._by_path[CANCEL_CHAT] = CancelChat(
            registry=registry, access=access, in_flight=in_flight, replays=replays
        )
        self._kept_responses = generating(KeptResponses, RESPONSES)
        self._page = Page(access, preflights=bool(registry.settings.server.allow_origins))
        task_routes = {**TASK_ROUTES, **OLLAMA_TASKS} if ollama else TASK_ROUTES
        for path, route in task_routes.items():
            self._by_path[path] = RunTask(
                route,
                registry=registry,
                access=access,
                admission=admission,
                in_flight=in_flight,
                metrics=metrics,
            )
        self._ollama: OllamaRoutes | None = None
        if ollama:
            self._ollama = OllamaRoutes(registry, access)
            for path, dialect in _OLLAMA.items():
                self._by_path[path] = generating(OllamaGenerate, dialect)

    def __contains__(self, path: str) -> bool:
        """True for a path that is one of them to the letter."""
        return path in self._by_path

    def find(self, scope: Scope) -> Application | None:
        """What answers on the request's path; None if nothing here does."""
        path = scope["path"]
        found = self._by_path.get(path)
        if found is None and path.startswith(kept_responses.PREFIX):
            return self._kept_responses
        if found is not None:
            return found
        if self._ollama is not None and self._ollama.has(path):
            return self._page if path == ROOT and wants_page(scope) else self._ollama
        return self._page if self._page.has(path) else None
