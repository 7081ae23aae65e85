"""Keys over HTTP, as the holder of the admin key sees them."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from reverie.store import keys
from reverie.store.database.engine import Store
from tests.http.admin.harness import KEYS, ON_SQLITE, USAGE, error_of, make


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


@ON_SQLITE
async def test_what_the_documentation_prefills_can_be_sent(
    client: httpx2.AsyncClient, app: FastAPI
) -> None:
    body = app.openapi()["paths"][KEYS]["post"]["requestBody"]["content"]["application/json"]
    assert (await client.post(KEYS, json=body["example"])).status_code == 201


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


async def test_a_change_keeps_what_is_absent_and_clears_what_is_null(
    client: httpx2.AsyncClient,
) -> None:
    made = await make(client, rpm=7, tpm=8, budget="1USD/day", model_limits={"m": {"rpm": 1}})
    one = f"{KEYS}/{made['id']}"
    before = (await client.get(one)).json()
    assert (await client.patch(one, json={})).json() == before
    body = {"rpm": 9, "tpm": None, "budget": None, "model_limits": None, "name": "bob"}
    changed = await client.patch(one, json=body)
    assert changed.status_code == 200
    gone = dict.fromkeys(["budget", "budget_nano", "spent", "spent_nano", "spent_since"])
    assert changed.json() == {**before, **body, **gone, "model_limits": {}}
    assert (await client.get(one)).json() == changed.json()


@ON_SQLITE
@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"name": None}, (400, "invalid_request", "name")),
        ({"name": "taken"}, (400, "invalid_request", "name")),
        ({"rpm": 0}, (400, "invalid_request", "rpm")),
        ({"rpm": "5"}, (400, "invalid_request", "rpm")),
        ({"expires_at": "2020-01-01"}, (400, "invalid_request", "expires_at")),
        ({"models": []}, (400, "invalid_request", "models")),
        ({"tags": ["fine", " odd"]}, (400, "invalid_request", "tags")),
        ({"rpm": 5, "secret": "mine"}, (400, "unsupported_parameter", "secret")),
        ({"id": "key_1"}, (400, "unsupported_parameter", "id")),
        ([], (400, "invalid_request", None)),
    ],
)
async def test_a_wrong_change_is_refused_whole(
    client: httpx2.AsyncClient, body: Any, refusal: tuple[int, str, str | None]
) -> None:
    made = await make(client)
    await make(client, "taken")
    one = f"{KEYS}/{made['id']}"
    before = (await client.get(one)).json()
    assert error_of(await client.patch(one, json=body)) == refusal
    assert (await client.get(one)).json() == before


async def test_a_revoked_key_can_t_be_changed(client: httpx2.AsyncClient) -> None:
    one = f"{KEYS}/{(await make(client))['id']}"
    await client.delete(one)
    assert error_of(await client.patch(one, json={"rpm": 5})) == (400, "invalid_request", "key")
    assert error_of(await client.patch(f"{KEYS}/key_0", json={"rpm": 5}))[0] == 404
    assert error_of(await client.patch(f"{KEYS}/alice", json={"rpm": 5}))[0] == 404


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


async def test_tags_are_kept_replaced_and_cleared(client: httpx2.AsyncClient) -> None:
    made = await make(client, tags=["team:search", "prod", "prod"])
    assert made["tags"] == ["prod", "team:search"]
    one = f"{KEYS}/{made['id']}"
    for body, tags in (
        ({"rpm": 5}, made["tags"]),
        ({"tags": ["dev"]}, ["dev"]),
        ({"tags": None}, []),
    ):
        assert (await client.patch(one, json=body)).json()["tags"] == tags
        assert (await client.get(one)).json()["tags"] == tags


async def test_keys_are_found_by_what_is_known_of_them(client: httpx2.AsyncClient) -> None:
    alice = await make(client, "Alice", tags=["prod"])
    bob = await make(client, "bob's", tags=["prod", "team:a"])
    await client.delete(f"{KEYS}/{(await make(client, 'carol'))['id']}")

    async def found(**params: str) -> list[str]:
        page = (await client.get(KEYS, params=params)).json()
        assert page["has_more"] is False
        return sorted(key["name"] for key in page["data"])

    assert await found(tag="prod") == ["Alice", "bob's"]
    assert await found(tag="team:a") == ["bob's"]
    assert await found(tag="nobody's") == []
    assert await found(q="alI") == ["Alice"]
    assert await found(q=bob["id"][:12]) == ["bob's"]
    assert await found(q="b'", status="active", tag="prod") == ["bob's"]
    assert await found(status="revoked") == ["carol"]
    page = (await client.get(KEYS, params={"tag": "prod", "limit": "1"})).json()
    assert page["has_more"] is True
    first, second = sorted((alice, bob), key=lambda key: str(key["id"]))
    assert [key["id"] for key in page["data"]] == [first["id"]]
    assert await found(tag="prod", after=page["last_id"]) == [second["name"]]


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
        ({"name": "n", "tags": "prod"}, "tags"),
        ({"name": "n", "tags": None}, "tags"),
        ({"name": "n", "tags": ["a,b"]}, "tags"),
        ({"name": "n", "tags": [5]}, "tags.0"),
        ({"name": "n", "tags": [str(n) for n in range(17)]}, "tags"),
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
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "name: Field required."),
        ({"name": 5}, "name: Input should be a string."),
        ({"name": "a", "rpm": 1.5}, "rpm: Input should be a whole number."),
        ({"name": "a", "models": "m"}, "models: Input should be a list."),
        ({"name": "a", "model_limits": {"m": 1}}, "model_limits.m: Input should be an object."),
        ({"name": "a", "x": 1}, "x: This field is not known."),
        ([], "The request body should be a JSON object."),
    ],
)
async def test_a_mistake_is_described_in_plain_words(
    client: httpx2.AsyncClient, body: Any, message: str
) -> None:
    assert (await client.post(KEYS, json=body)).json()["error"]["message"] == message


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
        (f"{KEYS}?after=a&after=b", "after", "invalid_request"),
        (f"{KEYS}?after=%00", "after", "invalid_request"),
        (f"{KEYS}?before=x", "before", "unsupported_parameter"),
        (f"{KEYS}?status=gone", "status", "invalid_request"),
        (f"{KEYS}?tag=a,b", "tag", "invalid_request"),
        (f"{KEYS}?q=%00", "q", "invalid_request"),
    ],
)
async def test_a_wrong_parameter_is_named(
    client: httpx2.AsyncClient, path: str, param: str, code: str
) -> None:
    assert error_of(await client.get(path)) == (400, code, param)


@ON_SQLITE
@pytest.mark.parametrize("end", ["", "/revoke", "/rotate"])
async def test_a_parameter_where_there_is_none_is_named(
    client: httpx2.AsyncClient, end: str
) -> None:
    method = "POST" if end else "GET"
    answer = await client.request(method, f"{KEYS}/key_1{end}?odd=1")
    assert error_of(answer) == (400, "unsupported_parameter", "odd")
