"""What an operator does with keys is checked, done and described alike everywhere."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import insert

from reverie.gateway.accounts import key_service
from reverie.gateway.accounts.key_service import (
    InvalidInput,
    Key,
    KeyChanges,
    KeyNotFound,
    KeySpec,
    RateLimits,
)
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.usage import COUNTS
from reverie.times import DAY_MS

NOW = 1_795_392_196_123  # 2026-11-23

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


def make(store: Store, name: str = "alice", now: int = NOW, **spec: Any) -> tuple[Key, str]:
    with store.write() as connection:
        return key_service.create(connection, KeySpec(name=name, **spec), now)


def refused(**spec: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        key_service.key_of(KeySpec(**{"name": "alice", **spec}), NOW)
    return caught.value


# Checking ---------------------------------------------------------------------------------


def test_a_specification_becomes_a_key(store: Store) -> None:
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
        assert keys.by_hash(connection, keys.hash_of(secret.encode())) == key
    assert key == Key(
        id=key.id,
        name="alice",
        created_at=NOW,
        expires_at=NOW + 30 * DAY_MS,
        weight=4,
        models=("a", "b"),
        limits=RateLimits(1, 2, 3),
        model_limits={"a": RateLimits(rpm=5)},
        budget=10**10,
        budget_period="month",
        currency="USD",
    )


def test_strange_names_are_kept_as_they_are_and_found(store: Store) -> None:
    made = {name: make(store, name, models=(name,))[0] for name in STRANGE}
    with store.write() as connection:
        for name, key in made.items():
            assert key_service.find(connection, name, NOW) == key
            assert key.name == name
            assert key.may_use(name)
            key_service.revoke(connection, name, NOW)
        assert len(key_service.page(connection, NOW).keys) == len(STRANGE)


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


# Changing ---------------------------------------------------------------------------------


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
    later = NOW + 2 * DAY_MS
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


def change(store: Store, key: Key, now: int = NOW, **changes: Any) -> Key:
    with store.write() as connection:
        key_service.update(connection, key.id, KeyChanges(**changes), now)
    with store.read() as connection:
        return key_service.by_id(connection, key.id)


def test_only_what_is_given_changes(store: Store) -> None:
    limits = {"a": RateLimits(rpm=5)}
    key, secret = make(
        store, models=("a",), rpm=1, tpm=2, budget="10USD/month", weight=4, model_limits=limits
    )
    assert change(store, key) == key
    key = structs.replace(key, limits=RateLimits(9, 2, 7))
    assert change(store, key, rpm=9, concurrency=7) == key
    key = structs.replace(key, budget=10**9, budget_period="day", currency="EUR", name="al")
    assert change(store, key, budget="1EUR/day", name="al") == key
    everything = {name: None for name in KeyChanges.__struct_fields__ if name != "name"}
    assert change(store, key, **everything) == Key(id=key.id, name="al", created_at=NOW)
    with store.read() as connection:
        assert keys.by_hash(connection, keys.hash_of(secret.encode())) is not None


def test_a_key_that_has_expired_can_be_prolonged_and_one_that_is_revoked_stays_so(
    store: Store,
) -> None:
    key, _ = make(store, expires_at="1h")
    later = NOW + DAY_MS
    assert change(store, key, later, rpm=5).status(later) == "expired"  # its expiry isn't new
    other, _ = make(store, now=later)
    with pytest.raises(InvalidInput, match="a key in use is called alice"):
        change(store, key, later, expires_at="30d")
    assert change(store, key, later, expires_at="30d", name="old").usable(later)
    with store.write() as connection:
        key_service.revoke(connection, other.id, later)
    with pytest.raises(InvalidInput, match="is revoked; create another"):
        change(store, other, later, rpm=5)


def test_changes_of_one_key_at_once_are_all_made(store: Store) -> None:
    key, _ = make(store)
    start = threading.Barrier(3)

    def make_change(**changes: Any) -> None:
        start.wait()
        change(store, key, **changes)

    fields: list[dict[str, Any]] = [{"rpm": 1}, {"tpm": 2}, {"concurrency": 3}]
    threads = [threading.Thread(target=make_change, kwargs=one) for one in fields]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as connection:
        assert key_service.by_id(connection, key.id).limits == RateLimits(1, 2, 3)


def test_a_key_that_has_ended_gets_no_new_secret(store: Store) -> None:
    make(store)
    make(store, "bob", expires_at="1d")
    with store.write() as connection:
        key_service.revoke(connection, "alice", NOW)
        with pytest.raises(InvalidInput, match="alice is revoked"):
            key_service.rotate(connection, "alice", NOW)
        with pytest.raises(InvalidInput, match="bob is expired"):
            key_service.rotate(connection, "bob", NOW + DAY_MS)


def test_a_key_that_isn_t_there_can_t_be_found_changed_or_revoked(store: Store) -> None:
    with store.write() as connection:
        for act in (key_service.find, key_service.revoke, key_service.rotate):
            with pytest.raises(KeyNotFound, match="no key nobody"):
                act(connection, "nobody", NOW)


def test_an_id_names_a_key_and_a_name_doesn_t_where_an_id_is_asked_for(store: Store) -> None:
    key, _ = make(store)
    with store.read() as connection:
        assert key_service.by_id(connection, key.id) == key
        with pytest.raises(KeyNotFound):
            key_service.by_id(connection, "alice")


def test_pages_of_keys_follow_each_other(store: Store) -> None:
    made = sorted(make(store, f"k{n}")[0].id for n in range(5))
    found: list[str] = []
    with store.read() as connection:
        while page := key_service.page(
            connection, NOW, after=found[-1] if found else "", limit=2
        ).keys:
            found += [key.id for key in page]
    assert found == made


@pytest.mark.parametrize(
    ("field", "value"),
    [("after", "\0"), ("q", " "), ("q", "a\0"), ("tag", "a,b"), ("tag", ""), ("status", "gone")],
)
def test_a_filter_that_can_t_be_meant_names_its_field(store: Store, field: str, value: str) -> None:
    with store.read() as connection, pytest.raises(InvalidInput) as caught:
        key_service.page(connection, NOW, **{field: value})
    assert caught.value.field == field


# Tags -------------------------------------------------------------------------------------


def tags(store: Store, key: Key) -> list[str]:
    with store.read() as connection:
        [described] = key_service.describe(connection, [key], NOW)
    found: list[str] = described["tags"]
    return found


def test_a_key_s_tags_are_told_sorted_and_each_once(store: Store) -> None:
    key, _ = make(store, tags=("team:search", "prod", "Zoe\u0308", "prod", "Zo\u00eb"))
    assert tags(store, key) == ["Zo\u00eb", "prod", "team:search"]
    assert tags(store, make(store, "bob")[0]) == []


def test_a_change_replaces_all_tags_or_leaves_them(store: Store) -> None:
    key, _ = make(store, tags=("a", "b"))
    for changes, expected in (
        (KeyChanges(rpm=5), ["a", "b"]),
        (KeyChanges(tags=("b", "c")), ["b", "c"]),
        (KeyChanges(tags=None), []),
        (KeyChanges(tags=("d",)), ["d"]),
        (KeyChanges(tags=()), []),
    ):
        with store.write() as connection:
            key_service.update(connection, "alice", changes, NOW)
        assert tags(store, key) == expected


@pytest.mark.parametrize(
    "tag", ["", " ", " a", "a ", "a,b", "a\nb", "a\0", "\udcff", "a\u202eb", "x" * 51]
)
def test_what_can_t_be_a_tag_is_refused(tag: str) -> None:
    assert refused(tags=("fine", tag)).field == "tags"


def test_a_key_has_up_to_16_tags(store: Store) -> None:
    sixteen = tuple(f"{n:050}" for n in range(16))
    assert tags(store, make(store, tags=sixteen)[0]) == list(sixteen)
    assert "at most 16 tags" in refused(tags=(*sixteen, "one more")).message


# Describing -------------------------------------------------------------------------------


def add_usage(store: Store, key_id: str, day: int, cost: int, currency: str = "USD") -> None:
    counts = dict.fromkeys(COUNTS, 1)
    with store.write() as connection:
        connection.execute(
            insert(schema.usage_daily).values(
                key_id=key_id, day=day, model="m", currency=currency, cost=cost, **counts
            )
        )


@pytest.mark.parametrize(("period", "spent"), [("month", "0.75 USD"), ("day", "0.50 USD")])
def test_a_description_holds_what_was_spent_in_the_current_period(
    store: Store, period: str, spent: str
) -> None:
    key, secret = make(store, budget=f"10USD/{period}")
    today = NOW // DAY_MS
    add_usage(store, key.id, today, 500_000_000)
    add_usage(store, key.id, today - 1, 250_000_000)
    add_usage(store, key.id, today - 40, 10**9)
    add_usage(store, key.id, today, 10**9, "AUD")
    add_usage(store, key.id, today, 10**9, "ZAR")
    add_usage(store, "anonymous", today, 10**9)
    with store.read() as connection:
        [described] = key_service.describe(connection, [key], NOW)
    assert described["budget"] == f"10.00 USD/{period}"
    assert described["spent"] == spent
    assert described["spent_since"] == ("2026-11-01" if period == "month" else "2026-11-23")
    assert secret not in str(described)
    assert not any("hash" in name for name in described)


def test_what_a_description_says_can_be_specified_again(store: Store) -> None:
    key, _ = make(store, budget="0.5EUR/day", expires_at="2027-01-31", rpm=3, models=("a",))
    with store.read() as connection:
        [described] = key_service.describe(connection, [key], NOW)
    spec = KeySpec(
        name=described["name"],
        models=tuple(described["models"]),
        rpm=described["rpm"],
        budget=described["budget"],
        expires_at=described["expires_at"],
    )
    again = key_service.key_of(spec, NOW)
    assert structs.replace(again, id=key.id) == key
