"""The admin API, over a real store, as its holder of the admin key sees it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, text

from reverie.gateway.accounts.authentication import Authenticator
from reverie.http.access import Access
from reverie.http.admin import accounts
from reverie.settings import StoreSettings
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.usage import COUNTS
from reverie.testing import ScriptedEngine
from reverie.times import parse_day
from tests.harness import StartGateway, chat

KEYS = "/admin/v1/keys"
USAGE = "/admin/v1/usage"
ADMIN = "an-admin-key-of-good-length"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
USER = hashlib.sha256(b"a-user").digest()

ON_SQLITE = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
"""For what no database is asked about."""

ROUTES = [
    ("GET", KEYS),
    ("POST", KEYS),
    ("GET", f"{KEYS}/key_1"),
    ("DELETE", f"{KEYS}/key_1"),
    ("POST", f"{KEYS}/key_1/revoke"),
    ("POST", f"{KEYS}/key_1/rotate"),
    ("GET", f"{USAGE}?by=nonsense"),
]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    url = f"sqlite:///{tmp_path}/store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database")
    opened = Store(StoreSettings(url=url, timeout=10))
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def app(store: Store) -> FastAPI:
    app = FastAPI()
    access = Access(Authenticator([(USER, "user")], store, ADMIN), open_to_all=False)
    accounts.add_routes(app, store, access)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://here", headers=AS_ADMIN
    ) as client:
        yield client


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


# Who may ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        ({}, (401, "invalid_api_key")),
        ({"Authorization": "Bearer wrong"}, (401, "invalid_api_key")),
        ({"Authorization": "Bearer a-user"}, (403, "forbidden")),
    ],
)
async def test_without_the_admin_key_nothing_is_done_or_even_read(
    tmp_path: Any, method: str, path: str, sent: dict[str, str], refusal: tuple[int, str]
) -> None:
    # A store that fails whoever asks it, and a body that nobody may ask for.
    store = Store(StoreSettings(url=f"sqlite:///{tmp_path}/empty.db"))
    app = FastAPI()
    access = Access(Authenticator([(USER, "user")], admin_key=ADMIN), open_to_all=True)
    accounts.add_routes(app, store, access)
    answers: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        answers.append(message)

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in sent.items()],
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    store.close()
    assert (answers[0]["status"], json.loads(answers[1]["body"])["error"]["code"]) == refusal
    assert (b"cache-control", b"no-store") in answers[0]["headers"]


async def test_a_user_s_key_from_the_store_may_not_either(client: httpx2.AsyncClient) -> None:
    made = await make(client)
    answer = await client.get(KEYS, headers={"Authorization": f"Bearer {made['secret']}"})
    assert error_of(answer) == (403, "forbidden", None)


# Keys ---------------------------------------------------------------------------------------


async def test_a_key_that_is_made_here_is_known_by_its_secret(
    client: httpx2.AsyncClient, store: Store
) -> None:
    made = await make(
        client,
        models=["m"],
        rpm=1,
        tpm=2,
        concurrency=3,
        budget="10USD/month",
        expires_at="2099-01-31T00:00:00Z",
        weight=4,
        model_limits={"m": {"rpm": 5}},
    )
    with store.read() as connection:
        key = keys.by_hash(connection, keys.hash_of(made["secret"].encode()))
    assert key is not None
    assert key.id == made["id"]
    assert made["budget"] == "10.00 USD/month"
    assert made["budget_nano"] == key.budget == 10**10
    assert made["expires_at"] == "2099-01-31T00:00:00Z"
    assert made["model_limits"] == {"m": {"rpm": 5, "tpm": None, "concurrency": None}}
    assert (made["rpm"], made["tpm"], made["concurrency"], made["weight"]) == (1, 2, 3, 4)
    assert (made["models"], made["status"]) == (["m"], "active")


async def test_secrets_are_in_the_answers_that_make_them_alone_and_hashes_in_none(
    client: httpx2.AsyncClient,
) -> None:
    made = await make(client)
    one = f"{KEYS}/{made['id']}"
    rotated = await client.post(f"{one}/rotate")
    secrets = {made["secret"], rotated.json()["secret"]}
    assert len(secrets) == 2
    answers = [
        await client.get(KEYS),
        await client.get(one),
        await client.post(f"{one}/revoke"),
        await client.delete(one),
        await client.get(USAGE),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert not any(secret in answer.text for secret in secrets)
    for answer in (*answers, rotated):
        assert "hash" not in answer.text
        assert not any(hashlib.sha256(s.encode()).hexdigest() in answer.text for s in secrets)


@pytest.mark.parametrize(("method", "end"), [("DELETE", ""), ("POST", "/revoke")])
async def test_a_revoked_key_stays_revoked(
    client: httpx2.AsyncClient, method: str, end: str
) -> None:
    one = f"{KEYS}/{(await make(client))['id']}"
    first = (await client.request(method, one + end)).json()
    assert first["status"] == "revoked"
    assert (await client.request(method, one + end)).json() == first
    assert (await client.get(one)).json() == first
    assert error_of(await client.post(f"{one}/rotate")) == (400, "invalid_request", "key")


async def test_a_rotated_key_keeps_its_id_and_loses_its_old_secret(
    client: httpx2.AsyncClient, store: Store
) -> None:
    made = await make(client, rpm=7)
    rotated = (await client.post(f"{KEYS}/{made['id']}/rotate")).json()
    assert {**rotated, "secret": made["secret"]} == made
    with store.read() as connection:
        assert keys.by_hash(connection, keys.hash_of(made["secret"].encode())) is None


async def test_keys_are_paged_through(client: httpx2.AsyncClient) -> None:
    made = sorted([(await make(client, f"k{n}"))["id"] for n in range(5)])
    listed: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(KEYS, params={"limit": "2", **after})).json()
        assert page["object"] == "list"
        listed += [key["id"] for key in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert listed == made


async def test_a_key_that_isn_t_there_is_404(client: httpx2.AsyncClient) -> None:
    await make(client)
    for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/revoke"), ("POST", "/rotate")):
        for id in ("key_0", "alice", "'; DROP TABLE keys;--", "%F0%9F%94%91"):
            answer = await client.request(method, f"{KEYS}/{id}{end}")
            assert error_of(answer) == (404, "not_found", None)


async def test_an_id_that_no_database_can_hold_is_400(client: httpx2.AsyncClient) -> None:
    for id in ("a%00b", "%00", "a%0Ab", "x" * 201):
        assert error_of(await client.get(f"{KEYS}/{id}")) == (400, "invalid_request", "id")


@ON_SQLITE
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "anonymous"}, "name"),
        ({"name": "static-1"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "n", "rpm": 0}, "rpm"),
        ({"name": "n", "rpm": "5"}, "rpm"),
        ({"name": "n", "rpm": True}, "rpm"),
        ({"name": "n", "tpm": 1.5}, "tpm"),
        ({"name": "n", "concurrency": 2**31}, "concurrency"),
        ({"name": "n", "concurrency": 10**30}, "concurrency"),
        ({"name": "n", "budget": 10}, "budget"),
        ({"name": "n", "budget": "10"}, "budget"),
        ({"name": "n", "expires_at": 1795392196}, "expires_at"),
        ({"name": "n", "expires_at": "2020-01-01"}, "expires_at"),
        ({"name": "n", "weight": 0}, "weight"),
        ({"name": "n", "weight": None}, "weight"),
        ({"name": "n", "models": "m"}, "models"),
        ({"name": "n", "models": []}, "models"),
        ({"name": "n", "models": ["a\0"]}, "models"),
        ({"name": "n", "model_limits": {"m": {"rpm": -1}}}, "model_limits"),
        ({"name": "n", "model_limits": {"m": 5}}, "model_limits.m"),
    ],
)
async def test_a_wrong_field_is_named(
    client: httpx2.AsyncClient, body: dict[str, Any], param: str
) -> None:
    assert error_of(await client.post(KEYS, json=body)) == (400, "invalid_request", param)
    assert (await client.get(KEYS)).json()["data"] == []


@ON_SQLITE
@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"hash": "00"}, "hash"),
        ({"secret": "mine"}, "secret"),
        ({"id": "key_1"}, "id"),
        ({"file": "/etc/passwd"}, "file"),
        ({"model_limits": {"m": {"burst": 1}}}, "model_limits.m.burst"),
    ],
)
async def test_a_field_that_is_not_known_is_refused(
    client: httpx2.AsyncClient, more: dict[str, Any], param: str
) -> None:
    answer = await client.post(KEYS, json={"name": "n", **more})
    assert error_of(answer) == (400, "unsupported_parameter", param)


@ON_SQLITE
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"name":"\\ud800"}'])
async def test_a_body_that_is_no_json_object_is_400(client: httpx2.AsyncClient, raw: bytes) -> None:
    assert error_of(await client.post(KEYS, content=raw))[:2] == (400, "invalid_request")


@ON_SQLITE
async def test_a_body_that_nests_without_end_is_400(client: httpx2.AsyncClient) -> None:
    raw = b'{"name":' + b"[" * 100_000
    assert error_of(await client.post(KEYS, content=raw))[:2] == (400, "invalid_request")


@ON_SQLITE
async def test_a_body_that_is_too_large_is_413(client: httpx2.AsyncClient) -> None:
    answer = await client.post(KEYS, json={"name": "n", "models": ["x" * 100] * 5000})
    assert error_of(answer) == (413, "request_too_large", None)


async def test_names_of_keys_in_use_are_taken(client: httpx2.AsyncClient) -> None:
    made = await make(client)
    assert error_of(await client.post(KEYS, json={"name": "alice"})) == (
        400,
        "invalid_request",
        "name",
    )
    await client.delete(f"{KEYS}/{made['id']}")
    await make(client)


async def test_text_of_every_sort_is_kept_as_it_is(client: httpx2.AsyncClient) -> None:
    for name in ("Zoë", "🔑", "x'); DROP TABLE keys;--", '"quoted"', "<script>", "%00"):
        made = await make(client, name)
        assert (await client.get(f"{KEYS}/{made['id']}")).json()["name"] == name


@ON_SQLITE
@pytest.mark.parametrize(
    ("path", "param", "code"),
    [
        (f"{KEYS}?limit=0", "limit", "invalid_request"),
        (f"{KEYS}?limit=1001", "limit", "invalid_request"),
        (f"{KEYS}?limit=ten", "limit", "invalid_request"),
        (f"{KEYS}?limit=1&limit=2", "limit", "invalid_request"),
        (f"{KEYS}?after=%00", "after", "invalid_request"),
        (f"{KEYS}?before=x", "before", "unsupported_parameter"),
        (f"{USAGE}?by=colour", "by", "invalid_request"),
        (f"{USAGE}?since=yesterday", "since", "invalid_request"),
        (f"{USAGE}?until=7d", "until", "invalid_request"),
        (f"{USAGE}?since=2026-11-02&until=2026-11-01", "since", "invalid_request"),
        (f"{USAGE}?key=a%00b", "key", "invalid_request"),
        (f"{USAGE}?model=%00", "model", "invalid_request"),
        (f"{USAGE}?format=csv", "format", "unsupported_parameter"),
    ],
)
async def test_a_wrong_parameter_is_named(
    client: httpx2.AsyncClient, path: str, param: str, code: str
) -> None:
    assert error_of(await client.get(path)) == (400, code, param)


# Usage --------------------------------------------------------------------------------------


async def test_usage_is_told_by_what_was_asked(client: httpx2.AsyncClient, store: Store) -> None:
    alice = (await make(client))["id"]
    row = {name: n for n, name in enumerate(COUNTS, start=1)}
    row |= {"day": parse_day("2026-11-10"), "model": "m", "currency": "USD", "cost": 180_000_000}
    with store.write() as connection:
        connection.execute(
            insert(schema.usage_daily),
            [
                {**row, "key_id": alice},
                {**row, "key_id": alice, "model": "n"},
                {**row, "key_id": "static-1"},
                {**row, "key_id": alice, "day": parse_day("2026-10-31")},
            ],
        )
    asked = {"by": "key,day", "since": "2026-11-01", "until": "2026-11-30"}
    told = (await client.get(USAGE, params=asked)).json()
    assert (told["by"], told["since"], told["until"]) == (
        ["key", "day"],
        "2026-11-01",
        "2026-11-30",
    )
    assert [(one["key"], one["name"], one["day"]) for one in told["rows"]] == [
        (alice, "alice", "2026-11-10"),
        ("static-1", None, "2026-11-10"),
    ]
    assert told["rows"][0]["requests"] == 2 * row["requests"]
    assert told["rows"][0]["costs"] == [
        {"currency": "USD", "nano": 360_000_000, "formatted": "0.36 USD"}
    ]
    assert told["total"]["costs"][0]["formatted"] == "0.54 USD"
    for key in ("alice", alice):
        narrow = {**asked, "key": key, "model": "n"}
        [one] = (await client.get(USAGE, params=narrow)).json()["rows"]
        assert (one["key"], one["requests"]) == (alice, row["requests"])


async def test_usage_of_a_key_that_nobody_knows_is_404(client: httpx2.AsyncClient) -> None:
    assert error_of(await client.get(USAGE, params={"key": "nobody"})) == (404, "not_found", None)


# Bad days -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_store_that_fails_is_503_and_worth_another_try(
    client: httpx2.AsyncClient, store: Store, method: str, path: str
) -> None:
    with store.write() as connection:
        connection.execute(text("DROP TABLE keys"))
        connection.execute(text("DROP TABLE usage_daily"))
    path = path.partition("?")[0]
    answer = await client.request(method, path, json={"name": "n"} if path == KEYS else None)
    assert error_of(answer)[0] == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "keys" not in answer.json()["error"]["message"]


async def test_the_api_s_description_shows_the_routes_and_their_fields(app: FastAPI) -> None:
    document = app.openapi()
    create = document["paths"][KEYS]["post"]
    schema = create["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["name"]
    assert "$ref" not in json.dumps(schema)
    assert {one["name"] for one in document["paths"][USAGE]["get"]["parameters"]} == {
        "by",
        "since",
        "until",
        "key",
        "model",
    }
    assert f"{KEYS}/{{id}}" in document["paths"]


# The whole house ----------------------------------------------------------------------------


async def test_a_key_from_here_serves_is_counted_and_ends(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_ADMIN_KEY": ADMIN})
    status, made, _ = await gateway.post({"name": "alice"}, KEYS, AS_ADMIN)
    assert status == 201
    await gateway.until(lambda: not gateway.app.keyless)
    as_alice = {"Authorization": f"Bearer {made['secret']}"}
    assert (await gateway.post(chat(), "/llm", as_alice))[0] == 200
    _, told, headers = await gateway.get(USAGE, AS_ADMIN)
    assert [(row["name"], row["requests"]) for row in told["rows"]] == [("alice", 1)]
    assert "X-Request-Id" in headers
    assert (await gateway.post({}, f"{KEYS}/{made['id']}/revoke", AS_ADMIN))[0] == 200
    status, answer, _ = await gateway.post(chat(), "/llm", as_alice)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
