"""What strangers write in their headers reaches no statement, and takes no gateway down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.testing import ScriptedEngine
from tests.faults.ledger_tools import (
    Client,
    Gateway,
    add_key,
    daily_sums,
    http_client,
    nursery,
    rows_of,
    store_at,
    sums_of,
    write_config,
)

SECRETS = {
    "sql": b"' OR '1'='1",
    "sql in a comment": b"x'; DELETE FROM keys; --",
    "sql in hexadecimal": b"x' UNION SELECT * FROM keys WHERE name LIKE '%",
    "placeholders": b"%s %(name)s :name ? $1 {0}",
    "nul": b"rv_\x00\x00",
    "control characters": bytes(range(1, 9)) + b"\x7f\x1b[2J",
    "not utf-8": b"\xff\xfe\xc3\x28",
    "unicode": "ключ\u202e🔑".encode(),
    "a megabyte": b"a" * 2**20,
    "many words": b"rv_ rv_ rv_",
    "nothing": b"",
    "spaces": b"   ",
    "a hash": b"0" * 64,
    "the key's id": b"key_known",
}
ODD_NAMES = {
    "sql": b"'); DROP TABLE ledger; --",
    "unicode": "имя".encode(),
    "not utf-8": b"\xff\xfe",
    "long": b"n" * 5000,
}


class Target:
    """A gateway whose keys are in its store."""

    def __init__(self, gateway: Gateway, store: Store, secret: str) -> None:
        self.gateway = gateway
        self.store = store
        self.secret = secret

    async def send(self, headers: dict[str, bytes], body: bytes) -> int | None:
        """Send a request byte by byte as it is; give the status, None for none."""
        where = urlsplit(self.gateway.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        lines = [b"POST /llm HTTP/1.1", b"host: localhost", b"connection: close"]
        lines += [name.encode() + b": " + value for name, value in headers.items()]
        lines += [b"content-type: application/json", b"content-length: %d" % len(body), b"", body]
        try:
            writer.write(b"\r\n".join(lines))
            first = (await asyncio.wait_for(reader.readline(), 30)).split()
        except ConnectionError:
            return None
        finally:
            writer.close()
        return int(first[1]) if first else None

    def content(self) -> dict[str, list[Any]]:
        """All that the store holds, but for signs of life."""
        with self.store.read() as connection:
            return {
                table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
                for table in schema.metadata.sorted_tables
                if table is not schema.gateways
            }


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Target]:
    url = f"sqlite:///{tmp_path}/reverie.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database")
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ScriptedEngine())
        store = await stack.enter_async_context(store_at(url))
        secret = add_key(store, "known", id="key_known")
        nest = await stack.enter_async_context(nursery(tmp_path))
        gateway = await nest.ready(write_config(tmp_path / "reverie.toml", url, engine))
        yield Target(gateway, store, secret)
        http = await stack.enter_async_context(http_client())
        client = Client(http, "after", secret)
        assert (await client.ask(gateway.url)).whole, "the gateway went down"
        await gateway.stop()
        assert "Traceback" not in gateway.said
        rows = rows_of(store)
        assert [row.outcome for row in rows] == ["ok"] * engine.generations
        assert daily_sums(store) == sums_of(rows)


def chat(**more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "odd"}], **more}).encode()


async def test_odd_keys_are_refused_and_change_nothing(target: Target) -> None:
    before = target.content()
    for scheme in (b"Bearer ", b"bearer ", b"Basic ", b""):
        for what, secret in SECRETS.items():
            status = await target.send({"authorization": scheme + secret}, chat())
            # A header that is too long or isn't HTTP is refused before anybody looks for keys.
            assert status in (401, 400, 431), (what, scheme)
    assert target.content() == before


async def test_odd_names_of_requests_and_models_reach_no_statement(target: Target) -> None:
    key = b"Bearer " + target.secret.encode()
    for name in ODD_NAMES.values():
        for header in ("x-request-id", "idempotency-key"):
            status = await target.send({"authorization": key, header: name}, chat())
            assert status in (200, 400, 422), (header, name)
    before = target.content()
    for model in ("m\x00", "'; DROP TABLE keys; --", "м" * 10_000, "\ud83d"):
        status = await target.send({"authorization": key}, chat(model=model))
        assert status in (400, 422), model
    assert target.content() == before
