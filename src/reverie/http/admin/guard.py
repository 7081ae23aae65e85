"""Lets only the holder of the admin key through to the admin routes.

Rule 1: the key is checked before a body is read, and before an answer gives away which routes,
methods and parameters there are. FastAPI does all of that before a route runs, so the check stands
in front of it.

Rule 2: every answer forbids caches to store it, since some hold secrets.
"""

from __future__ import annotations

from starlette.types import ASGIApp

from reverie.errors import ReverieError
from reverie.http.access import Access
from reverie.http.connection.exchange import Message, Receive, Scope, Send, read_body
from reverie.http.operations.errors import error_response

PREFIX = "/admin/v1"

_MAX_BODY_BYTES = 256 * 1024
_BODY_TIMEOUT = 30.0


class Guard:
    """An ASGI application that guards another's routes below ``PREFIX``."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_admin(scope):
            await self._app(scope, receive, send)
            return

        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"cache-control", b"no-store")]
            await send(message)

        try:
            await self._access.admit_admin(scope)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                scope, receive = await _with_body(scope, receive)
        except ReverieError as error:
            await error_response(error)(scope, receive, send_private)
            return
        await self._app(scope, receive, send_private)


def _is_admin(scope: Scope) -> bool:
    """True if the path is an admin route's, even where another application mounts this one."""
    path = scope["path"]
    paths = (path, path.removeprefix(scope.get("root_path", "")))
    return any(f"{path}/".startswith(f"{PREFIX}/") for path in paths)


async def _with_body(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Read the body; return a scope and a receive that pass it on as JSON.

    What the client says of its type isn't read: curl calls any body a form.

    Raises:
        RequestTooLarge, RequestTimeout, ClientGone
    """
    body = await read_body(scope, receive, limit=_MAX_BODY_BYTES, timeout=_BODY_TIMEOUT)
    about_body = (b"content-type", b"content-encoding", b"content-length")
    others = [(name, value) for name, value in scope["headers"] if name not in about_body]
    unread = [body.removeprefix(b"\xef\xbb\xbf")]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return {**scope, "headers": [*others, (b"content-type", b"application/json")]}, replay
