"""What the tests of the admin routes ask of them."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from reverie.gateway.accounts.authentication import Authenticator
from reverie.gateway.live import Live
from reverie.gateway.pulls import Pulls
from reverie.gateway.serving.config_diff import Changes
from reverie.gateway.serving.served_models import ServedModels
from reverie.gateway.siblings import ALONE
from reverie.http.access import Access
from reverie.http.admin.application import add_admin
from reverie.http.operations.errors import translate_errors
from reverie.store.database.engine import Store

KEYS = "/admin/v1/keys"
USAGE = "/admin/v1/usage"
REQUESTS = "/admin/v1/requests"
ADMIN = "an-admin-key-of-good-length"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
USER = hashlib.sha256(b"a-user").digest()

ON_SQLITE = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
"""For what no database is asked about."""

ROUTES = [
    ("GET", KEYS),
    ("POST", KEYS),
    ("GET", f"{KEYS}/key_1"),
    ("PATCH", f"{KEYS}/key_1"),
    ("DELETE", f"{KEYS}/key_1"),
    ("POST", f"{KEYS}/key_1/revoke"),
    ("POST", f"{KEYS}/key_1/rotate"),
    ("GET", USAGE),
    ("GET", REQUESTS),
]
"""Those that ask the store."""


def admin_api(app: FastAPI, store: Store) -> ASGIApp:
    """The admin routes of a server that has a user's key, the admin key and no model."""
    access = Access(Authenticator([(USER, "user")], store, ADMIN), open_to_all=False)
    translate_errors(app)
    return add_admin(
        app,
        access,
        store=store,
        models=no_models,
        live=Live(),
        pulls=Pulls(),
        gateway=dict,
        describe_cluster=lambda _: None,
        siblings=ALONE,
        reload_configuration=no_reload,
        preview_reload=no_reload,
    )


def no_models() -> ServedModels:
    raise AssertionError("nobody asked for a model")


async def no_reload() -> Changes:
    raise AssertionError("nobody asked for a reload")


async def make(client: httpx2.AsyncClient, name: str = "alice", **more: Any) -> dict[str, Any]:
    answer = await client.post(KEYS, json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def error_of(answer: httpx2.Response) -> tuple[int, str, str | None]:
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["detail"]["msg"] == body["error"]["message"]
    return answer.status_code, body["error"]["code"], body["error"]["param"]
