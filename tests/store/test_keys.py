"""Keys, as the store keeps them and as an operator handles them."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, select

from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import InvalidInput, KeyNotFound, KeySpec
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.keys import Key
from reverie.store.limits import RateLimits
from reverie.store.usage import COUNTS

NOW = 1_795_392_196_123  # 2026-11-23
DAY = 86_400_000

# Names that a careless layer would break on, or that would break it.
STRANGE = [
    "Zoë",
    "李雷",
    "🔑 key",
    "Robert'); DROP TABLE keys;--",
    '" OR 1=1 --',
    "%",
    "a/b?c#d",
    "[red]x[/red]",
    "$(reboot)",
    "..",
    "x" * 200,
]

UNPRINTABLE = ["", " ", " a", "a ", "a\0b", "a\nb", "a\x1b[31m", "\udcff", "a\u202eb"]
UNPRINTABLE += ["a\u2028b", "x" * 201]


def make(store: Store, name: str = "alice", now: int = NOW, **order: Any) -> tuple[Key, str]:
    with store.write() as connection:
        return key_service.create(connection, KeySpec(name=name, **order), now)


def refused(**order: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        key_service.key_of(KeySpec(**{"name": "alice", **order}), NOW)
    return caught.value


# The store --------------------------------------------------------------------------------


def test_a_key_is_found_by_its_secret_with_all_that_it_was_made_with(store: Store) -> None:
    key, secret = make(
        store,
        models=("a", "b"),
        rpm=1,
        tpm=2,
        concurrency=3,
        budget="10USD/month",
        expires_at="30d",
        weight=4,
        model_limits={"a": RateLimits(rpm=5)},
    )
    with store.read() as connection:
        found = keys.by_hash(connection, keys.hash_of(secret.encode()))
    assert found == key
    assert found == Key(
        id=key.id,
        name="alice",
        created_at=NOW,
        expires_at=NOW + 30 * DAY,
        weight=4,
        models=("a", "b"),
        limits=RateLimits(1, 2, 3),
        model_limits={"a": RateLimits(rpm=5)},
        budget=10**10,
        budget_period="month",
        currency="USD",
    )


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
        rotated, new = key_service.rotate(connection, "alice", NOW)
    assert rotated.id == key.id
    with store.read() as connection:
        assert keys.by_hash(connection, keys.hash_of(old.encode())) is None
        assert keys.by_hash(connection, keys.hash_of(new.encode())) == key


def test_keys_are_listed_page_by_page(store: Store) -> None:
    made = sorted(make(store, f"k{n}")[0].id for n in range(5))
    pages: list[str] = []
    with store.read() as connection:
        while page := keys.listed(connection, after=pages[-1] if pages else "", limit=2):
            assert len(page) <= 2
            pages += [key.id for key in page]
    assert pages == made


def test_a_store_knows_whether_it_ever_had_a_key(store: Store) -> None:
    with store.read() as connection:
        assert not keys.any_exists(connection)
    make(store)
    with store.write() as connection:
        key_service.revoke(connection, "alice", NOW)
    with store.read() as connection:
        assert keys.any_exists(connection)


def test_a_key_ends_at_the_moment_of_its_expiry() -> None:
    key = Key(id="key_1", name="n", created_at=0, expires_at=10)
    assert [key.status(now) for now in (9, 10)] == ["active", "expired"]
    assert msgspec.structs.replace(key, revoked_at=1).status(9) == "revoked"
    assert not key.usable(10)


# Orders -----------------------------------------------------------------------------------


def test_strange_names_are_kept_as_they_are_and_found(store: Store) -> None:
    made = {name: make(store, name, models=(name,))[0] for name in STRANGE}
    with store.write() as connection:
        for name, key in made.items():
            assert key_service.find(connection, name, NOW) == key
            assert key.name == name
            assert key.may_use(name)
            key_service.revoke(connection, name, NOW)
        assert len(keys.listed(connection)) == len(STRANGE)


def test_a_name_is_found_however_its_accents_are_encoded(store: Store) -> None:
    key, _ = make(store, "Zoe\u0308")
    with store.read() as connection:
        assert key_service.find(connection, "Zo\u00eb", NOW) == key


@pytest.mark.parametrize("name", UNPRINTABLE)
def test_a_name_that_can_t_be_printed_is_refused(name: str) -> None:
    assert refused(name=name).field == "name"
    assert refused(models=(name,)).field == "models"
    assert refused(model_limits={name: RateLimits()}).field == "model_limits"


def test_a_name_that_can_t_be_printed_isn_t_even_looked_for(store: Store) -> None:
    with store.read() as connection:
        for name in UNPRINTABLE:
            with pytest.raises(InvalidInput):
                key_service.find(connection, name, NOW)


@pytest.mark.parametrize("name", ["anonymous", "Anonymous", "static-1", "file-2", "key_0", "KEY_x"])
def test_names_that_would_be_taken_for_other_callers_are_refused(name: str) -> None:
    assert "reserved" in refused(name=name).message


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("rpm", 0, "from 1 to"),
        ("tpm", -1, "from 1 to"),
        ("concurrency", 2**31, "from 1 to 2147483647"),
        ("weight", 0, "from 1 to 1000"),
        ("weight", 1001, "from 1 to 1000"),
        ("budget", "10", "10USD/month"),
        ("expires_at", "soon", "30d"),
        ("expires_at", "2026-11-01", "has passed"),
        ("expires_at", "0d", "has passed"),
        ("models", (), "name 1 to"),
        ("model_limits", {"m": RateLimits(rpm=0)}, "from 1 to"),
    ],
)
def test_a_mistake_names_its_field_and_what_to_write(field: str, value: Any, advice: str) -> None:
    problem = refused(**{field: value})
    assert problem.field == field
    assert advice in problem.message


# What an operator does --------------------------------------------------------------------


def test_usable_keys_have_names_of_their_own(store: Store) -> None:
    make(store)
    with pytest.raises(InvalidInput, match="in use is called alice"):
        make(store)


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_the_name_of_a_key_that_has_ended_is_free(store: Store, end: str) -> None:
    old, _ = make(store, expires_at="1d" if end == "expired" else None)
    if end == "revoked":
        with store.write() as connection:
            key_service.revoke(connection, "alice", NOW)
    later = NOW + 2 * DAY
    new, _ = make(store, now=later)
    with store.read() as connection:
        assert key_service.find(connection, "alice", later).id == new.id
        assert key_service.find(connection, old.id, later).id == old.id


def test_of_several_that_have_ended_one_is_named_by_its_id(store: Store) -> None:
    ids = []
    for _ in range(2):
        ids.append(make(store)[0].id)
        with store.write() as connection:
            key_service.revoke(connection, "alice", NOW)
    with store.read() as connection:
        with pytest.raises(InvalidInput) as caught:
            key_service.find(connection, "alice", NOW)
    assert all(id in caught.value.message for id in ids)


def test_of_operators_who_make_the_same_name_at_once_one_wins(store: Store) -> None:
    outcomes: list[str] = []

    def create() -> None:
        try:
            make(store)
            outcomes.append("made")
        except InvalidInput as error:
            outcomes.append(error.field)

    others = [threading.Thread(target=create) for _ in range(3)]
    with store.write() as connection:
        key_service.create(connection, KeySpec(name="alice"), NOW)
        for other in others:
            other.start()
        for other in others:
            other.join(0.2)  # time for one that doesn't wait for us
    for other in others:
        other.join()
    assert outcomes == ["name"] * 3


def test_revoking_again_keeps_the_first_moment(store: Store) -> None:
    make(store)
    with store.write() as connection:
        assert key_service.revoke(connection, "alice", NOW).revoked_at == NOW
        assert key_service.revoke(connection, "alice", NOW + 5).revoked_at == NOW


def test_a_key_that_has_ended_gets_no_new_secret(store: Store) -> None:
    make(store)
    make(store, "bob", expires_at="1d")
    with store.write() as connection:
        key_service.revoke(connection, "alice", NOW)
        with pytest.raises(InvalidInput, match="alice is revoked"):
            key_service.rotate(connection, "alice", NOW)
        with pytest.raises(InvalidInput, match="bob is expired"):
            key_service.rotate(connection, "bob", NOW + DAY)


def test_a_key_that_isn_t_there_can_t_be_found_changed_or_ended(store: Store) -> None:
    with store.write() as connection:
        for act in (key_service.find, key_service.revoke, key_service.rotate):
            with pytest.raises(KeyNotFound, match="no key nobody"):
                act(connection, "nobody", NOW)


# What is told -----------------------------------------------------------------------------


def _use(store: Store, key_id: str, day: int, cost: int, currency: str = "USD") -> None:
    figures = dict.fromkeys(COUNTS, 1)
    with store.write() as connection:
        connection.execute(
            insert(schema.usage_daily).values(
                key_id=key_id, day=day, model="m", currency=currency, cost=cost, **figures
            )
        )


@pytest.mark.parametrize(("period", "spent"), [("month", "0.75 USD"), ("day", "0.50 USD")])
def test_what_is_told_holds_what_was_spent_in_the_running_period(
    store: Store, period: str, spent: str
) -> None:
    key, secret = make(store, budget=f"10USD/{period}")
    today = NOW // DAY
    _use(store, key.id, today, 500_000_000)
    _use(store, key.id, today - 1, 250_000_000)
    _use(store, key.id, today - 40, 10**9)
    _use(store, key.id, today, 10**9, "AUD")
    _use(store, key.id, today, 10**9, "ZAR")
    _use(store, "anonymous", today, 10**9)
    with store.read() as connection:
        [told] = key_service.describe(connection, [key], NOW)
    assert told["budget"] == f"10.00 USD/{period}"
    assert told["spent"] == spent
    assert told["spent_since"] == ("2026-11-01" if period == "month" else "2026-11-23")
    assert secret not in str(told)
    assert not any("hash" in name for name in told)


def test_what_is_told_can_be_ordered_again(store: Store) -> None:
    key, _ = make(store, budget="0.5EUR/day", expires_at="2027-01-31", rpm=3, models=("a",))
    with store.read() as connection:
        [told] = key_service.describe(connection, [key], NOW)
    order = KeySpec(
        name=told["name"],
        models=tuple(told["models"]),
        rpm=told["rpm"],
        budget=told["budget"],
        expires_at=told["expires_at"],
    )
    again = key_service.key_of(order, NOW)
    assert msgspec.structs.replace(again, id=key.id) == key
