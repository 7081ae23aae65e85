"""The admin API: keys and usage over HTTP, for the holder of the admin key.

Rule 1: admission comes before anything of a request is read, its path and query included. FastAPI
reads bodies and parameters before a route runs, so that the routes take the bare request and read
for themselves; what it says of them in the API's description is written here.

Rule 2: secrets are in the answers that make them and nowhere else; hashes are in none. Nothing in
a request names a file, a command or a URL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import Connection

from reverie import log
from reverie.errors import (
    AccountsUnavailable,
    InvalidRequest,
    NotFound,
    ReverieError,
    StoreFailure,
    UnsupportedParameter,
)
from reverie.gateway.accounts import key_service, usage_report
from reverie.gateway.accounts.key_service import InvalidInput, Key, KeyNotFound
from reverie.gateway.accounts.store import Store
from reverie.http.access import Access
from reverie.http.admin.body import body_schema, read_order
from reverie.http.connection.exchange import read_body
from reverie.http.dialects.chat import OPENAI
from reverie.times import now_ms

logger = logging.getLogger("reverie.admin")

PREFIX = "/admin/v1"
_MAX_BODY_BYTES = 256 * 1024
_BODY_TIMEOUT = 30.0
_MAX_PAGE = 1000
_PAGE = 100
_PRIVATE = {"Cache-Control": "no-store"}

Answer: TypeAlias = tuple[int, Any]
"""An HTTP status, and what is sent as JSON."""
Handler: TypeAlias = Callable[[Request], Awaitable[Answer]]


def add_routes(app: FastAPI, store: Store, access: Access) -> None:
    """Add the routes of ``/admin/v1``."""
    admin = Admin(store)
    one = f"{PREFIX}/keys/{{id}}"
    for method, path, handler, summary, described in (
        ("GET", f"{PREFIX}/keys", admin.list_keys, "The keys, page by page", _LIST),
        ("POST", f"{PREFIX}/keys", admin.create, "Make a key; its secret is shown once", _CREATE),
        ("GET", one, admin.show, "One key", _ONE),
        ("DELETE", one, admin.revoke, "End a key, for ever", _ONE),
        ("POST", f"{one}/revoke", admin.revoke, "End a key, for ever", _ONE),
        ("POST", f"{one}/rotate", admin.rotate, "Give a key a new secret; it is shown once", _ONE),
        ("GET", f"{PREFIX}/usage", admin.usage, "What was used", _USAGE),
    ):
        app.add_api_route(
            path,
            guarded(handler, access),
            methods=[method],
            summary=summary,
            tags=["admin"],
            operation_id=f"admin_{handler.__name__}_{method.lower()}",
            openapi_extra={**described, "security": [{"HTTPBearer": []}]},
            response_model=None,
        )


def guarded(handler: Handler, access: Access) -> Callable[[Request], Awaitable[Response]]:
    """A route that admits first, and answers with no more than its caller may keep."""

    async def route(request: Request) -> Response:
        try:
            await access.admit_admin(request.scope)
            status, answer = await handler(request)
        except ReverieError as error:
            return Response(
                OPENAI.error_body(error),
                OPENAI.status(error),
                headers={**error.headers, **_PRIVATE},
                media_type="application/json",
            )
        return JSONResponse(answer, status, headers=_PRIVATE)

    return route


class Admin:
    """What each route does, once its caller is admitted."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list_keys(self, request: Request) -> Answer:
        query = _query(request, ("after", "limit"))
        limit = _page_size(query.get("limit"))
        after = query.get("after", "")

        def read() -> Answer:
            now = now_ms()
            with self._store.read() as connection:
                page = key_service.page(connection, after, limit + 1)
                told = key_service.describe(connection, page[:limit], now)
            return 200, {
                "object": "list",
                "data": told,
                "has_more": len(page) > limit,
                "last_id": told[-1]["id"] if told else None,
            }

        return await _blocking(read)

    async def create(self, request: Request) -> Answer:
        refuse_parameters(request)
        raw = await read_body(
            request.scope, request.receive, limit=_MAX_BODY_BYTES, timeout=_BODY_TIMEOUT
        )
        order = read_order(raw)

        def write() -> Answer:
            now = now_ms()
            with self._store.write() as connection:
                key, secret = key_service.create(connection, order, now)
                [told] = key_service.describe(connection, [key], now)
            return 201, {**told, "secret": secret}

        return _logged("key made", await _blocking(write))

    async def show(self, request: Request) -> Answer:
        refuse_parameters(request)
        id = request.path_params["id"]

        def read() -> Answer:
            with self._store.read() as connection:
                return 200, _told(connection, _by_id(connection, id), now_ms())

        return await _blocking(read)

    async def revoke(self, request: Request) -> Answer:
        refuse_parameters(request)
        id = request.path_params["id"]

        def write() -> Answer:
            now = now_ms()
            with self._store.write() as connection:
                key = key_service.revoke(connection, _by_id(connection, id).id, now)
                return 200, _told(connection, key, now)

        return _logged("key revoked", await _blocking(write))

    async def rotate(self, request: Request) -> Answer:
        refuse_parameters(request)
        id = request.path_params["id"]

        def write() -> Answer:
            now = now_ms()
            with self._store.write() as connection:
                key, secret = key_service.rotate(connection, _by_id(connection, id).id, now)
                return 200, {**_told(connection, key, now), "secret": secret}

        return _logged("key rotated", await _blocking(write))

    async def usage(self, request: Request) -> Answer:
        query = _query(request, ("by", "since", "until", "key", "model"))

        def read() -> Answer:
            wanted = usage_report.parse_query(
                [query["by"]] if "by" in query else [],
                query.get("since"),
                query.get("until"),
                query.get("key"),
                query.get("model"),
                now_ms(),
            )
            with self._store.read() as connection:
                return 200, usage_report.make(connection, wanted).to_json()

        return await _blocking(read)


async def _blocking(work: Callable[[], Answer]) -> Answer:
    """Run what waits for the database, off the event loop; its failures are told as ours.

    Raises:
        NotFound, InvalidRequest, AccountsUnavailable
    """
    try:
        return await asyncio.to_thread(work)
    except KeyNotFound as error:
        raise NotFound(f"{error.message[:1].upper()}{error.message[1:]}.") from None
    except InvalidInput as error:
        raise InvalidRequest(f"{error.field}: {error.message}.", param=error.field) from None
    except StoreFailure as failure:
        logger.warning("store failed", extra=log.fields(reason=str(failure)))
        raise AccountsUnavailable from failure


def _by_id(connection: Connection, id: str) -> Key:
    """The key of that id. Names won't do here: a slash in one would be a path of its own."""
    return key_service.by_id(connection, id)


def _told(connection: Connection, key: Key, now: int) -> dict[str, Any]:
    [told] = key_service.describe(connection, [key], now)
    return told


def _logged(event: str, answer: Answer) -> Answer:
    logger.info(event, extra=log.fields(key=answer[1]["id"]))
    return answer


def refuse_parameters(request: Request) -> None:
    """Refuse a query where nothing of it would be used.

    Raises:
        UnsupportedParameter
    """
    _query(request, ())


def _query(request: Request, known: Iterable[str]) -> dict[str, str]:
    """The query's parameters; one that is repeated is a list with commas.

    Raises:
        UnsupportedParameter: there is another.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            name = name[:100]
            raise UnsupportedParameter(f"{name}: This parameter is not known.", param=name)
        given[name] = f"{given[name]},{value}" if name in given else value
    return given


def _page_size(written: str | None) -> int:
    if written is None:
        return _PAGE
    if not (written.isascii() and written.isdecimal() and 1 <= int(written[:9]) <= _MAX_PAGE):
        raise InvalidRequest(f"limit: write a number from 1 to {_MAX_PAGE}.", param="limit")
    return int(written)


# The API's description --------------------------------------------------------------------


def _parameters(where: str, **described: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": where,
            "required": where == "path",
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in described.items()
    ]


_LIST = {
    "parameters": _parameters(
        "query",
        after="The `last_id` of the page before",
        limit=f"Keys on the page, at most {_MAX_PAGE}; default: {_PAGE}",
    )
}
_ONE = {"parameters": _parameters("path", id="The key's id, as key_9f8e7d6c5b4a3928")}
_USAGE = {
    "parameters": _parameters(
        "query",
        by="`key`, `model` or `day`; several with commas; default: `key`",
        since="The first day (UTC), as 2026-11-01, or 7d; default: the first of the month",
        until="The last day; default: today",
        key="A key's name or id",
        model="A model's name",
    )
}
_CREATE = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema()}}}
}
