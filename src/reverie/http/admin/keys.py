"""``/admin/v1/keys``: list keys, make them, show, change, rotate and revoke one.

Rule: a secret is in the one answer that makes it; hashes are in none. Nothing in a request names a
file, a command or a URL.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import Field
from sqlalchemy import Connection

from reverie import log
from reverie.correlation import request_id
from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import Key, KeyChanges, KeySpec
from reverie.gateway.accounts.store import Store
from reverie.http.admin.router import NO_PARAMETERS, Body, Parameters, admin_router
from reverie.http.operations.errors import not_found
from reverie.times import now_ms

logger = logging.getLogger("reverie.admin")


class ModelLimits(Body):
    """Limits on one model; one that is absent or null isn't there."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class _KeyFields(Body):
    models: list[str] | None = None
    """The models that it may use; null: all."""
    rpm: int | None = None
    """Requests in any 60 seconds."""
    tpm: int | None = None
    """Tokens in any 60 seconds, prompts and answers together."""
    concurrency: int | None = None
    """Requests at once."""
    budget: str | None = Field(default=None, examples=["10USD/month"])
    """What it may spend in a day or a month (UTC)."""


class NewKey(_KeyFields):
    """A key to make; a limit that is absent or null isn't there."""

    name: str
    """What lists and log lines call it; no two keys in use share it."""
    expires_at: str | None = Field(default=None, examples=["2027-01-31T00:00:00Z"])
    """When it ends: RFC 3339, a day, or a span from now, as `30d`."""
    weight: int = 1
    """Its share of a full server, beside other keys'."""
    model_limits: dict[str, ModelLimits] = Field(default={})
    """A model's name → limits of this key on it."""
    tags: list[str] = Field(default=[], examples=[["team:search", "prod"]])
    """Labels to find it and to sum up its use by."""


class ChangedKey(_KeyFields):
    """What to change of a key: what is absent stays, null takes a limit away."""

    name: str = Field(default_factory=str)
    """What lists and log lines call it; no two keys in use share it."""
    expires_at: str | None = Field(default=None, examples=["2027-01-31T00:00:00Z"])
    """When it ends: RFC 3339, a day, or a span from now, as `30d`; null: never."""
    weight: int | None = None
    """Its share of a full server, beside other keys'; null: 1."""
    model_limits: dict[str, ModelLimits] | None = None
    """A model's name → limits of this key on it. They replace all that there were."""
    tags: list[str] | None = None
    """Its labels. They replace all that there were; null: none."""


class Page(Parameters):
    after: str = ""
    """The `last_id` of the page before."""
    limit: int = Field(default=100, ge=1, le=1000)
    """Keys on the page."""
    q: str | None = None
    """Only keys with this in their name, in upper or lower case, or whose id begins with it."""
    tag: str | None = None
    """Only keys with this tag."""
    status: str | None = None
    """Only keys that are `active`, `expired` or `revoked`."""


KeyId = Annotated[str, Path(description="The key's id, as key_9f8e7d6c5b4a3928")]
"""Paths hold ids alone: a slash in a name would make a path of its own."""
_OF_ONE_KEY: Any = {"dependencies": NO_PARAMETERS, "responses": not_found("There is no such key")}
_NEW_KEY = {"name": "alice", "rpm": 60, "budget": "10USD/month", "expires_at": "30d"}
_CHANGES = {"rpm": 120, "budget": None}


def _example(body: dict[str, Any]) -> dict[str, Any]:
    """What the documentation's page offers to send."""
    return {"requestBody": {"content": {"application/json": {"example": body}}}}


def routes(store: Store) -> APIRouter:
    """The routes. Each runs in a thread, since it waits for the store."""
    router = admin_router()

    @router.get("/keys", summary="The keys, page by page")
    def list_keys(page: Annotated[Page, Query()]) -> dict[str, Any]:
        with store.read() as connection:
            now = now_ms()
            found = key_service.page(connection, now, **page.model_dump())
            data = key_service.describe(connection, found.keys, now)
        return {
            "object": "list",
            "data": data,
            "has_more": found.next is not None,
            "last_id": found.next or (data[-1]["id"] if data else None),
        }

    @router.post(
        "/keys",
        summary="Make a key; its secret is shown once",
        status_code=201,
        dependencies=NO_PARAMETERS,
        openapi_extra=_example(_NEW_KEY),
    )
    def create(new: NewKey) -> dict[str, Any]:
        spec = msgspec.convert(new.model_dump(), KeySpec)
        now = now_ms()
        with store.write() as connection:
            key, secret = key_service.create(connection, spec, now)
            answer = {**_describe(connection, key, now), "secret": secret}
        _log("key made", key)
        return answer

    @router.get("/keys/{id}", summary="One key", **_OF_ONE_KEY)
    def show(id: KeyId) -> dict[str, Any]:
        with store.read() as connection:
            return _describe(connection, key_service.by_id(connection, id), now_ms())

    @router.patch(
        "/keys/{id}", summary="Change a key", openapi_extra=_example(_CHANGES), **_OF_ONE_KEY
    )
    def change(id: KeyId, changed: ChangedKey) -> dict[str, Any]:
        changes = msgspec.convert(changed.model_dump(exclude_unset=True), KeyChanges)
        now = now_ms()
        with store.write() as connection:
            key_service.by_id(connection, id)
            key = key_service.update(connection, id, changes, now)
            answer = _describe(connection, key, now)
        _log("key changed", key)
        return answer

    @router.delete("/keys/{id}", summary="End a key, for ever", **_OF_ONE_KEY)
    @router.post("/keys/{id}/revoke", summary="End a key, for ever", **_OF_ONE_KEY)
    def revoke(id: KeyId) -> dict[str, Any]:
        now = now_ms()
        with store.write() as connection:
            key = key_service.revoke(connection, key_service.by_id(connection, id).id, now)
            answer = _describe(connection, key, now)
        _log("key revoked", key)
        return answer

    @router.post(
        "/keys/{id}/rotate",
        summary="Give a key a new secret; it is shown once",
        **_OF_ONE_KEY,
    )
    def rotate(id: KeyId) -> dict[str, Any]:
        now = now_ms()
        with store.write() as connection:
            key, secret = key_service.rotate(connection, key_service.by_id(connection, id).id, now)
            answer = {**_describe(connection, key, now), "secret": secret}
        _log("key rotated", key)
        return answer

    return router


def _describe(connection: Connection, key: Key, now: int) -> dict[str, Any]:
    [described] = key_service.describe(connection, [key], now)
    return described


def _log(event: str, key: Key) -> None:
    logger.info(event, extra=log.fields(id=request_id(), key=key.id))
