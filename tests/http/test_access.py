from __future__ import annotations

import hashlib

import pytest

from reverie.errors import Forbidden, InvalidApiKey
from reverie.gateway.accounts.authentication import Authenticator
from reverie.http.access import Access
from reverie.http.connection.exchange import Scope

KEYED = Authenticator([(hashlib.sha256(b"k").digest(), "team")])


def scope(client: str | None = "127.0.0.1", **headers: str) -> Scope:
    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"headers": named, "client": None if client is None else (client, 1)}


async def test_without_keys_this_machine_may_call() -> None:
    access = Access(Authenticator(), open_to_all=False)
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost"):
        assert (await access.admit(scope(host=host))).name == "anonymous"
    assert await access.admit(scope(host="localhost:8000", origin="http://localhost:3000"))


@pytest.mark.parametrize(
    "refused",
    [
        scope("10.0.0.7", host="localhost"),
        scope(host="rebound.example:8000"),
        scope(host="localhost:8000", origin="https://evil.example"),
        scope(host="localhost:8000", origin="null"),
        scope(host="[::1"),
    ],
)
async def test_without_keys_others_and_their_pages_may_not(refused: Scope) -> None:
    with pytest.raises(Forbidden):
        await Access(Authenticator(), open_to_all=False).admit(refused)


async def test_no_auth_admits_everyone() -> None:
    access = Access(Authenticator(), open_to_all=True)
    assert (await access.admit(scope("10.0.0.7", host="anything"))).name == "anonymous"


async def test_with_keys_a_key_is_needed_from_everywhere() -> None:
    access = Access(KEYED, open_to_all=False)
    assert (await access.admit(scope("10.0.0.7", authorization="Bearer k"))).name == "team"
    with pytest.raises(InvalidApiKey):
        await access.admit(scope())


async def test_operation_is_seen_from_this_machine_or_with_a_key() -> None:
    access = Access(KEYED, open_to_all=False)
    await access.admit_operator(scope())
    await access.admit_operator(scope("10.0.0.7", authorization="Bearer k"))
    with pytest.raises(InvalidApiKey):
        await access.admit_operator(scope("10.0.0.7"))


@pytest.mark.parametrize("keys", [KEYED, Authenticator()], ids=["keys", "no keys"])
async def test_operation_is_not_shown_to_a_page_that_calls_this_machine_by_another_name(
    keys: Authenticator,
) -> None:
    access = Access(keys, open_to_all=False)
    for page in (
        scope(host="rebound.example:8000"),
        scope(host="localhost:8000", origin="https://evil.example"),
    ):
        with pytest.raises((InvalidApiKey, Forbidden)):
            await access.admit_operator(page)


def test_a_harmless_request_id_is_kept_and_any_other_replaced() -> None:
    access = Access(Authenticator(), open_to_all=False)
    assert access.request_id(scope(x_request_id="abc-1")) == "abc-1"
    for bad in ("", "a b", "a\nb", "x" * 65):
        assert access.request_id(scope(x_request_id=bad)).startswith("req_")
    assert access.request_id(scope()) != access.request_id(scope())


FORWARDED = [
    {"x_forwarded_for": "203.0.113.7"},
    {"x_forwarded_for": "127.0.0.1, 203.0.113.7"},
    {"x_forwarded_for": "127.0.0.1"},
    {"forwarded": "for=203.0.113.7;host=localhost"},
    {"forwarded": 'for="[2001:db8::1]:4711"'},
    {"x_real_ip": "203.0.113.7"},
    {"x_forwarded_host": "example.org"},
    {"cf_connecting_ip": "203.0.113.7"},
    {"via": "1.1 proxy"},
    {"x_forwarded_for": ""},
    {"x_forwarded_proto": "https"},
    {"forwarded_for": "203.0.113.7"},
    {"x_vercel_forwarded_for": "203.0.113.7"},
    {"client_ip": "203.0.113.7"},
    {"true_client_ip": "203.0.113.7"},
    {"x_azure_clientip": "203.0.113.7"},
    {"cf_connecting_ipv6": "2001:db8::1"},
    {"x_nf_client_connection_ip": "203.0.113.7"},
    {"x_envoy_external_address": "203.0.113.7"},
    {"cdn_loop": "cloudflare"},
]


@pytest.mark.parametrize("headers", FORWARDED)
async def test_what_a_proxy_passes_on_is_not_local(headers: dict[str, str]) -> None:
    access = Access(Authenticator(), open_to_all=False)
    with pytest.raises(Forbidden, match="trusted_proxies"):
        await access.admit(scope(host="localhost:8000", **headers))
    with pytest.raises(InvalidApiKey):
        await Access(KEYED, open_to_all=False).admit_operator(scope(**headers))
    assert await Access(KEYED, open_to_all=False).admit(scope(authorization="Bearer k", **headers))


@pytest.mark.parametrize(
    "name",
    ["accept", "authorization", "user_agent", "x_request_id", "x_stainless_lang", "traceparent"],
)
async def test_what_clients_send_by_themselves_is_no_sign_of_a_proxy(name: str) -> None:
    assert await Access(Authenticator(), open_to_all=False).admit(scope(**{name: "zip"}))


@pytest.mark.parametrize(
    ("headers", "local"),
    [
        ({"x_forwarded_for": "127.0.0.1"}, True),
        ({"x_forwarded_for": "127.0.0.1", "x_forwarded_proto": "https"}, True),
        ({"x_forwarded_proto": "https", "x_forwarded_server": "localhost"}, False),
        ({"x_forwarded_for": "127.0.0.1", "x_azure_clientip": "203.0.113.7"}, False),
        ({"x_forwarded_for": "127.0.0.1", "x_forwarded": "for=203.0.113.7"}, False),
        ({"x_forwarded_for": "::1", "x_forwarded_host": "localhost:8000", "via": "1.1 p"}, True),
        ({"forwarded": 'for="[::1]:4711";proto=http;by=203.0.113.43'}, True),
        ({"x_forwarded_for": "203.0.113.7, 127.0.0.1"}, False),
        ({"x_forwarded_for": "203.0.113.7"}, False),
        ({"x_forwarded_for": "127.0.0.1", "x_forwarded_host": "example.org"}, False),
        ({"x_forwarded_for": "127.0.0.1", "x_real_ip": "203.0.113.7"}, False),
        ({"forwarded": "for=unknown"}, False),
        ({"via": "1.1 p"}, False),
        ({"x_forwarded_for": "::1]evil"}, False),
    ],
)
async def test_a_proxy_that_is_trusted_says_whether_its_caller_is_local(
    headers: dict[str, str], local: bool
) -> None:
    access = Access(Authenticator(), open_to_all=False, trusted_proxies=["127.0.0.0/8"])
    if local:
        assert await access.admit(scope(host="localhost", **headers))
    else:
        with pytest.raises(Forbidden):
            await access.admit(scope(host="localhost", **headers))


async def test_a_proxy_elsewhere_speaks_for_nobody_here() -> None:
    access = Access(Authenticator(), open_to_all=False, trusted_proxies=["10.0.0.0/8"])
    for client in ("10.0.0.7", "127.0.0.1"):
        with pytest.raises(Forbidden):
            await access.admit(scope(client, host="localhost", x_forwarded_for="127.0.0.1"))


ORCHESTRATED = ["livepeer_runner_route", "livepeer_session_id", "livepeer_session_token"]


@pytest.mark.parametrize("name", ORCHESTRATED)
async def test_what_an_orchestrator_passes_on_is_never_local_whatever_its_caller_claims(
    name: str,
) -> None:
    """It calls by a local name and removes X-Forwarded-For, and passes X-Real-IP through."""
    passed_on = scope(host="127.0.0.1:8000", x_real_ip="127.0.0.1", **{name: "x"})
    for trusted in ([], ["127.0.0.1"]):
        keyless = Access(Authenticator(), open_to_all=False, trusted_proxies=trusted)
        with pytest.raises(Forbidden, match="orchestrator"):
            await keyless.admit(passed_on)
        with pytest.raises(InvalidApiKey):
            await Access(KEYED, open_to_all=False, trusted_proxies=trusted).admit_operator(
                passed_on
            )
    assert await Access(Authenticator(), open_to_all=True).admit(passed_on)
