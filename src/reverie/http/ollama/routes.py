"""The routes of Ollama's API that don't generate.

Rule: models are managed by the operator, with Reverie's own means. The routes that would pull,
make or delete one answer 403 and say what to do instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from reverie.errors import Forbidden, InvalidRequest, MethodNotAllowed, NotFound
from reverie.gateway.serving.registry import ModelRegistry
from reverie.http.access import Access
from reverie.http.connection.exchange import (
    Headers,
    Receive,
    Scope,
    Send,
    as_reverie_error,
    read_body,
    respond,
)
from reverie.http.connection.senders import without_body
from reverie.http.dialects import OLLAMA_CHAT
from reverie.http.ollama import embed, models
from reverie.http.replies import JSON, id_headers, refuse
from reverie.http.request.mistakes import decode_object
from reverie.http.tasks.route import TaskRoute

VERSION = "0.20.0"
"""The version of Ollama whose API this is like. Clients compare its parts as numbers, and refuse an
old one: VS Code's Copilot one before 0.6.4, agents that use Anthropic's API one before 0.14."""
TASKS = {
    "/api/embed": TaskRoute(embed.parse_embed, "embed", OLLAMA_CHAT),
    "/api/embeddings": TaskRoute(embed.parse_older, "embed", OLLAMA_CHAT),
}
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_MAX_NAME = 200
_MAX_BODY = 64 * 1024
_INSTEAD = {
    "pull": "The operator fetches models with `reverie pull`, and lists them in reverie.toml.",
    "push": "Models are not published from here.",
    "create": "The operator describes models in reverie.toml.",
    "copy": "The operator gives a model more names with aliases in reverie.toml.",
    "delete": "The operator takes models out of reverie.toml.",
    "blobs": "The operator puts model files in place, and names them in reverie.toml.",
}
_Answer = Callable[[Scope, Receive], Awaitable[tuple[bytes, tuple[bytes, bytes]]]]


class OllamaRoutes:
    """An ASGI application that answers ``/`` and all below ``/api/``."""

    def __init__(self, registry: ModelRegistry, access: Access) -> None:
        self._registry = registry
        self._access = access
        self._routes: Mapping[str, tuple[str, _Answer]] = {
            "/": ("GET", self._root),
            "/api/version": ("GET", self._version),
            "/api/tags": ("GET", self._tags),
            "/api/ps": ("GET", self._running),
            "/api/show": ("POST", self._show),
        }

    def has(self, path: str) -> bool:
        """True if it is the one to answer on this path."""
        return path == "/" or path.startswith("/api/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._access.request_id(scope)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, without_body(send)
        try:
            body, content_type = await self._answer(scope, receive)
        except Exception as failure:
            error = as_reverie_error(failure, request_id)
            await refuse(scope, send, OLLAMA_CHAT, error, request_id)
        else:
            headers: Headers = [*id_headers(OLLAMA_CHAT, request_id), content_type]
            await respond(send, 200, body, headers)

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[bytes, bytes]]:
        path = scope["path"]
        if path not in self._routes:
            await self._access.admit(scope)
            verb = path.split("/")[2]
            if verb in _INSTEAD:
                raise Forbidden(f"Models are not managed over this API. {_INSTEAD[verb]}")
            raise NotFound("There is no such route. See /docs.")
        method, answer = self._routes[path]
        if scope["method"] != method:
            also = ", OPTIONS" if self._registry.settings.server.allow_origins else ""
            raise MethodNotAllowed(("GET, HEAD" if method == "GET" else method) + also)
        return await answer(scope, receive)

    async def _root(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[bytes, bytes]]:
        return b"Ollama is running", _TEXT  # the words that clients look for

    async def _version(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[bytes, bytes]]:
        return _json({"version": VERSION})

    async def _tags(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[bytes, bytes]]:
        await self._access.admit(scope)
        return _json(await models.tags(self._registry.models.all))

    async def _running(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[bytes, bytes]]:
        await self._access.admit(scope)
        return _json(await models.running(self._registry.models.all))

    async def _show(self, scope: Scope, receive: Receive) -> tuple[bytes, tuple[bytes, bytes]]:
        await self._access.admit(scope)
        settings = self._registry.settings.server
        body = await read_body(
            scope,
            receive,
            limit=min(_MAX_BODY, settings.max_body_bytes),
            timeout=settings.body_timeout,
        )
        asked = decode_object(body)
        name = asked.get("model") or asked.get("name")
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise InvalidRequest(
                f"model: Input should be a name of at most {_MAX_NAME} characters.", param="model"
            )
        return _json(await models.show(self._registry.models.find(name)))


def _json(value: Any) -> tuple[bytes, tuple[bytes, bytes]]:
    return msgspec.json.encode(value), JSON
