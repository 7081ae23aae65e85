"""Keys, as the store keeps them."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from sqlalchemy import select

from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.keys import Key
from reverie.store.limits import RateLimits

NOW = 1_795_392_196_123  # 2026-11-23


def make(store: Store, id: str = "key_1", **fields: Any) -> tuple[Key, str]:
    key = Key(id=id, name="alice", created_at=NOW, **fields)
    secret = keys.new_secret()
    with store.write() as connection:
        keys.create(connection, key, secret)
    return key, secret


def test_a_key_is_found_by_its_secret_with_all_that_it_was_made_with(store: Store) -> None:
    key, secret = make(
        store,
        expires_at=NOW + 1,
        revoked_at=NOW + 2,
        weight=4,
        models=("a", "b"),
        limits=RateLimits(1, 2, 3),
        model_limits={"a": RateLimits(rpm=5)},
        budget=10**10,
        budget_period="month",
        currency="USD",
    )
    plain, other = make(store, "key_2")
    with store.read() as connection:
        assert keys.by_hash(connection, keys.hash_of(secret.encode())) == key
        assert keys.by_hash(connection, keys.hash_of(other.encode())) == plain
        assert keys.by_hash(connection, keys.hash_of(b"rv_other")) is None


def test_the_secret_is_nowhere_in_the_store(store: Store) -> None:
    _, secret = make(store)
    with store.read() as connection:
        row = connection.execute(select(schema.keys)).one()
    assert row.hash == hashlib.sha256(secret.encode()).digest()
    assert not any(secret in str(value) or secret[3:] in str(value) for value in row)


def test_secrets_are_long_and_differ() -> None:
    secrets = {keys.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("rv_") and len(secret) == 46 for secret in secrets)


def test_a_rotated_key_is_found_by_its_new_secret_only(store: Store) -> None:
    key, old = make(store)
    with store.write() as connection:
        new = keys.new_secret()
        assert keys.rotate(connection, key.id, new)
    with store.read() as connection:
        assert keys.by_hash(connection, keys.hash_of(old.encode())) is None
        assert keys.by_hash(connection, keys.hash_of(new.encode())) == key


def test_a_store_knows_whether_it_ever_had_a_key(store: Store) -> None:
    with store.read() as connection:
        assert not keys.any_exists(connection)
    make(store)
    with store.write() as connection:
        assert keys.revoke(connection, "key_1", NOW)
        assert not keys.revoke(connection, "key_1", NOW)
    with store.read() as connection:
        assert keys.any_exists(connection)


def test_a_revoked_key_gets_no_new_secret(store: Store) -> None:
    make(store, revoked_at=NOW)
    with store.write() as connection:
        assert not keys.rotate(connection, "key_1", keys.new_secret())
        assert not keys.rotate(connection, "key_2", keys.new_secret())


def test_a_key_is_found_by_its_id_or_its_name(store: Store) -> None:
    first, _ = make(store)
    second, _ = make(store, "alice")  # an id that is a name, too
    with store.read() as connection:
        assert keys.find(connection, "key_1") == [first]
        assert keys.find(connection, "alice") == [second]
        assert keys.find(connection, "nobody") == []


def test_a_key_ends_at_the_moment_of_its_expiry() -> None:
    key = Key(id="key_1", name="n", created_at=0, expires_at=10)
    assert [key.status(now) for now in (9, 10)] == ["active", "expired"]
    assert msgspec.structs.replace(key, revoked_at=1).status(9) == "revoked"
    assert not key.usable(10)


def test_a_writer_that_knows_a_key_learns_what_others_do_to_it(store: Store) -> None:
    key = Key(id="key_1", name="team", created_at=1)

    def read() -> dict[str, Key]:
        with writer.next() as connection:
            return keys.by_ids(connection, ["key_1", "key_2"])

    writer = store.transactions()
    assert read() == {}
    with store.write() as connection:
        keys.create(connection, key, "secret")
    assert read() == read() == {"key_1": key}
    with store.write() as connection:
        keys.revoke(connection, "key_1", 5)
    assert read()["key_1"].revoked_at == 5
    writer.close()
