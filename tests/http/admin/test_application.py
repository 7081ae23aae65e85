"""All admin routes together."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from reverie.store.database.engine import Store
from reverie.testing import ScriptedEngine
from tests.harness import StartGateway, chat
from tests.http.admin.harness import ADMIN, AS_ADMIN, KEYS, ON_SQLITE, ROUTES, USAGE, error_of


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_store_that_fails_is_503_and_worth_another_try(
    client: httpx2.AsyncClient, store: Store, method: str, path: str
) -> None:
    with store.write() as connection:
        for table in ("keys", "usage_daily", "gateways"):
            connection.execute(text(f"DROP TABLE {table}"))
    answer = await client.request(
        method, path, json={"name": "n"} if path == KEYS or method == "PATCH" else None
    )
    assert error_of(answer)[0] == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "keys" not in answer.json()["error"]["message"]


@ON_SQLITE
@pytest.mark.usefixtures("client")
async def test_the_api_s_description_shows_the_routes_and_their_fields(app: FastAPI) -> None:
    document: dict[str, Any] = app.openapi()
    schemas = document["components"]["schemas"]
    create = document["paths"][KEYS]["post"]
    body = create["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/NewKey"}
    assert schemas["NewKey"]["required"] == ["name"]
    assert schemas["NewKey"]["properties"]["model_limits"]["additionalProperties"] == {
        "$ref": "#/components/schemas/ModelLimits"
    }
    assert {one["name"] for one in document["paths"][USAGE]["get"]["parameters"]} == {
        "by",
        "since",
        "until",
        "key",
        "model",
        "tag",
    }
    assert f"{KEYS}/{{id}}" in document["paths"]
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["security"] == [{"HTTPBearer": []}]
            assert "422" not in operation["responses"]


@ON_SQLITE
@pytest.mark.parametrize(
    ("method", "path", "refusal"),
    [
        ("GET", "/admin/v1/nothing", (404, "not_found", None)),
        ("GET", "/admin/v1", (404, "not_found", None)),
        ("PUT", KEYS, (405, "method_not_allowed", None)),
        ("GET", f"{KEYS}/key_1/rotate", (405, "method_not_allowed", None)),
    ],
)
async def test_a_route_or_method_that_there_isn_t(
    client: httpx2.AsyncClient, method: str, path: str, refusal: tuple[int, str, str | None]
) -> None:
    answer = await client.request(method, path)
    assert error_of(answer) == refusal
    assert ("allow" in answer.headers) is (answer.status_code == 405)


async def test_a_key_from_here_serves_is_counted_and_ends(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_ADMIN_KEY": ADMIN})
    status, made, _ = await gateway.post({"name": "alice"}, KEYS, AS_ADMIN)
    assert status == 201
    await gateway.until(lambda: not gateway.app.keyless)
    as_alice = {"Authorization": f"Bearer {made['secret']}"}
    assert (await gateway.post(chat(), "/llm", as_alice))[0] == 200
    _, report, headers = await gateway.get(USAGE, AS_ADMIN)
    assert [(row["name"], row["requests"]) for row in report["rows"]] == [("alice", 1)]
    assert "X-Request-Id" in headers
    assert (await gateway.post({}, f"{KEYS}/{made['id']}/revoke", AS_ADMIN))[0] == 200
    status, answer, _ = await gateway.post(chat(), "/llm", as_alice)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
