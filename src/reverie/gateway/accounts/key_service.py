"""What an operator does with keys, alike for the command line and for the admin API.

Each function runs in the caller's transaction, so that what it checks still holds when it writes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from msgspec import UNSET, Struct, UnsetType, structs
from sqlalchemy import Connection

from reverie.money import Budget, format_amount, format_budget, parse_budget
from reverie.store import key_list, keys
from reverie.store.database.schema import MAX_COUNT
from reverie.store.key_list import KeyFilter, KeyPage
from reverie.store.keys import Key as Key
from reverie.store.keys import Status
from reverie.store.limits import RateLimits as RateLimits
from reverie.store.limits import period_begin
from reverie.store.tags import set_tags, tags_of
from reverie.store.usage import spent
from reverie.times import format_day, format_moment, parse_moment

MAX_NAME = 200
MAX_WEIGHT = 1000
_MAX_MODELS = 1000
_MAX_TAGS = 16
_MAX_TAG = 50
STATUSES: tuple[Status, ...] = get_args(Status)
_RESERVED = re.compile(r"anonymous|(?:static|file)-[0-9]+|key_.*", re.IGNORECASE)
"""Names of callers without a stored key in the ledger, and what ids look like."""


class InvalidInput(Exception):
    """What an operator asked for can't be done.

    Args:
        field: the part of the input that is wrong.
        message: what to write instead, without a full stop.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class KeyNotFound(InvalidInput):
    """There is no key with that name or id."""


class KeySpec(Struct, frozen=True, kw_only=True):
    """A key to create, as an operator writes it. None: unlimited."""

    name: str
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget: str | None = None
    """As in ``10USD/month``."""
    expires_at: str | None = None
    """As in ``30d`` or ``2027-01-31``, or in RFC 3339."""
    weight: int = 1
    model_limits: Mapping[str, RateLimits] = {}
    tags: tuple[str, ...] = ()


class KeyChanges(Struct, frozen=True, kw_only=True):
    """What to change of a key, as in ``KeySpec``. What is unset stays; None clears a limit."""

    name: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    concurrency: int | UnsetType | None = UNSET
    budget: str | UnsetType | None = UNSET
    expires_at: str | UnsetType | None = UNSET
    weight: int | UnsetType | None = UNSET
    model_limits: Mapping[str, RateLimits] | UnsetType | None = UNSET
    tags: tuple[str, ...] | UnsetType | None = UNSET


# Checking ---------------------------------------------------------------------------------


def key_of(spec: KeySpec, now: int) -> Key:
    """Check a specification; return the key that it describes, with a new id. Its tags are no
    part of it.

    Args:
        now: milliseconds since 1970.

    Raises:
        InvalidInput: its field is one of ``KeySpec``.
    """
    name = checked_name(spec.name, "name")
    if _RESERVED.fullmatch(name):
        raise InvalidInput("name", f"the name {name} is reserved; choose another")
    checked_tags(spec.tags)
    budget = _budget(spec.budget)
    return Key(
        id=keys.new_id(),
        name=name,
        created_at=now,
        expires_at=_expiry(spec.expires_at, now),
        weight=_within("weight", spec.weight, MAX_WEIGHT) or 1,
        models=_models(spec.models),
        limits=_limits("", RateLimits(spec.rpm, spec.tpm, spec.concurrency)),
        model_limits={
            checked_name(model, "model_limits"): _limits("model_limits", limits)
            for model, limits in spec.model_limits.items()
        },
        budget=budget.nano if budget else None,
        budget_period=budget.period if budget else None,
        currency=budget.currency if budget else None,
    )


def changed(key: Key, changes: KeyChanges, now: int) -> Key:
    """Check what is to change; return the key as it will be.

    What stays isn't checked again: an expiry may have passed since it was set.

    Raises:
        InvalidInput: its field is one of ``KeyChanges``.
    """
    given = {n: value for n, value in structs.asdict(changes).items() if value is not UNSET}
    written = {name: value for name, value in given.items() if value is not None}
    checked = key_of(KeySpec(**{"name": key.name, **written}), now)
    new = {name: getattr(checked, name) for name in _SAME_IN_KEY & given.keys()}
    limits = {name: given[name] for name in RateLimits.__struct_fields__ if name in given}
    if "budget" in given:
        new |= {name: getattr(checked, name) for name in ("budget", "budget_period", "currency")}
    return structs.replace(key, limits=structs.replace(key.limits, **limits), **new)


_SAME_IN_KEY = {"name", "models", "expires_at", "weight", "model_limits"}
"""Fields that a specification and a key have alike."""


def checked_name(name: str, field: str) -> str:
    """A key's or model's name in Unicode's normal form, so that it is found however it is encoded.

    Raises:
        InvalidInput: it is empty, too long, or can't be printed.
    """
    name = unicodedata.normalize("NFC", name)
    if not name.strip() or name != name.strip():
        raise InvalidInput(field, "a name can't be empty, or begin or end with a space")
    if len(name) > MAX_NAME:
        raise InvalidInput(field, f"a name has at most {MAX_NAME} characters")
    if not name.isprintable():
        raise InvalidInput(field, "a name holds printable characters only, and no line breaks")
    return name


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags in Unicode's normal form, each once.

    Raises:
        InvalidInput: there are too many, or one of them can't be a tag.
    """
    if len(tags) > _MAX_TAGS:
        raise InvalidInput("tags", f"a key has at most {_MAX_TAGS} tags")
    return tuple(dict.fromkeys(checked_tag(tag, "tags") for tag in tags))


def checked_tag(tag: str, field: str) -> str:
    """One tag, as ``checked_tags`` has it.

    Raises:
        InvalidInput
    """
    tag = unicodedata.normalize("NFC", tag)
    if not 0 < len(tag) <= _MAX_TAG or tag != tag.strip() or "," in tag or not tag.isprintable():
        raise InvalidInput(
            field,
            f"a tag has 1 to {_MAX_TAG} printable characters, no comma, and no space at its ends",
        )
    return tag


def _budget(written: str | None) -> Budget | None:
    if written is None:
        return None
    try:
        return parse_budget(written)
    except ValueError as error:
        raise InvalidInput("budget", str(error)) from None


def _expiry(written: str | None, now: int) -> int | None:
    if written is None:
        return None
    try:
        moment = parse_moment(written, now)
    except ValueError as error:
        raise InvalidInput("expires_at", str(error)) from None
    if moment <= now:
        raise InvalidInput("expires_at", f"{format_moment(moment)} has passed already")
    return moment


def _models(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not 0 < len(names) <= _MAX_MODELS:
        raise InvalidInput(
            "models", f"name 1 to {_MAX_MODELS} models, or leave this out to allow all of them"
        )
    return tuple(dict.fromkeys(checked_name(name, "models") for name in names))


def _limits(field: str, limits: RateLimits) -> RateLimits:
    for kind in RateLimits.__struct_fields__:
        _within(field or kind, getattr(limits, kind), MAX_COUNT)
    return limits


def _within(field: str, count: int | None, highest: int) -> int | None:
    if count is not None and not 1 <= count <= highest:
        raise InvalidInput(field, f"write a whole number from 1 to {highest}")
    return count


# Changing ---------------------------------------------------------------------------------


def create(connection: Connection, spec: KeySpec, now: int) -> tuple[Key, str]:
    """Create a key; return it and its secret, which can't be learned again.

    Raises:
        InvalidInput: the specification is wrong, or a usable key has this name.
    """
    key = key_of(spec, now)
    keys.lock_names(connection)
    _require_own_name(connection, key, now)
    secret = keys.new_secret()
    keys.create(connection, key, secret)
    set_tags(connection, key.id, checked_tags(spec.tags))
    return key, secret


def update(connection: Connection, name_or_id: str, changes: KeyChanges, now: int) -> Key:
    """Change a key; return it as it is now. Its next request is subject to its new limits.

    Raises:
        InvalidInput: see ``find`` and ``changed``; or the key is revoked, or a usable key has the
            name that this one would have.
    """
    keys.lock_names(connection)  # before the key is read, so that no other change gets lost
    before = find(connection, name_or_id, now)
    if before.revoked_at is not None:
        raise InvalidInput("key", f"the key {before.name} is revoked; create another")
    key = changed(before, changes, now)
    if key.usable(now):
        _require_own_name(connection, key, now)
    keys.update(connection, key)
    if changes.tags is not UNSET:
        set_tags(connection, key.id, checked_tags(changes.tags or ()))
    return key


def _require_own_name(connection: Connection, key: Key, now: int) -> None:
    """Refuse a name that another usable key has.

    Raises:
        InvalidInput
    """
    same_name = keys.find(connection, key.name)
    if any(other.usable(now) and other.id != key.id for other in same_name):
        raise InvalidInput(
            "name", f"a key in use is called {key.name}; revoke it, or choose another"
        )


def by_id(connection: Connection, id: str) -> Key:
    """The key with that id.

    Raises:
        KeyNotFound
    """
    found = keys.by_ids(connection, [checked_name(id, "id")])
    if not found:
        raise KeyNotFound("id", "there is no key with this id")
    return next(iter(found.values()))


def page(
    connection: Connection,
    now: int,
    *,
    after: str = "",
    limit: int | None = None,
    q: str | None = None,
    tag: str | None = None,
    status: str | None = None,
) -> KeyPage:
    """Keys ordered by id, from the first one after ``after``; all of them by default.

    Args:
        q: a part of the name, in upper or lower case, or the beginning of the id.

    Raises:
        InvalidInput: its field is the argument that is wrong.
    """
    if status is not None and status not in STATUSES:
        raise InvalidInput("status", f"write one of {', '.join(STATUSES)}")
    wanted = KeyFilter(
        part=None if q is None else checked_name(q, "q"),
        tag=None if tag is None else checked_tag(tag, "tag"),
        status=status,
    )
    checked = checked_name(after, "after") if after else ""
    return key_list.listed(connection, now, wanted, after=checked, limit=limit)


def find(connection: Connection, name_or_id: str, now: int) -> Key:
    """The key with that id or name; of several with one name, the one that is in use.

    Raises:
        KeyNotFound
        InvalidInput: several keys have this name, and not exactly one is in use.
    """
    name = checked_name(name_or_id, "key")
    found = keys.find(connection, name)
    if not found:
        raise KeyNotFound("key", f"there is no key {name}")
    if len(found) == 1:
        return found[0]
    usable = [key for key in found if key.usable(now)]
    if len(usable) != 1:
        ids = ", ".join(key.id for key in found)
        raise InvalidInput("key", f"several keys are called {name}; name one by its id: {ids}")
    return usable[0]


def revoke(connection: Connection, name_or_id: str, now: int) -> Key:
    """Revoke a key for ever. One that is revoked already stays as it is.

    Raises:
        InvalidInput: see ``find``.
    """
    key = find(connection, name_or_id, now)
    keys.revoke(connection, key.id, now)
    return keys.by_ids(connection, [key.id])[key.id]


def rotate(connection: Connection, name_or_id: str, now: int) -> tuple[Key, str]:
    """Give a key a new secret; the old one is not valid any more.

    Raises:
        InvalidInput: see ``find``; or the key is revoked or expired.
    """
    key = find(connection, name_or_id, now)
    secret = keys.new_secret()
    if not key.usable(now) or not keys.rotate(connection, key.id, secret):
        raise InvalidInput("key", f"the key {key.name} is {key.status(now)}; create another")
    return key, secret


# Describing -------------------------------------------------------------------------------


def describe(connection: Connection, found: Sequence[Key], now: int) -> list[dict[str, Any]]:
    """Keys as JSON, without secrets and hashes.

    Money is given in nano-units and as it is written. What is spent is the cost of requests that
    have ended in the current period.
    """
    money = spent(connection, [key for key in found if key.budget is not None], now)
    tags = tags_of(connection, [key.id for key in found])
    return [_description(key, tags.get(key.id, []), money.get(key.id, 0), now) for key in found]


def _description(key: Key, tags: list[str], spent_nano: int, now: int) -> dict[str, Any]:
    description: dict[str, Any] = {
        "id": key.id,
        "name": key.name,
        "status": key.status(now),
        "created_at": format_moment(key.created_at),
        "expires_at": None if key.expires_at is None else format_moment(key.expires_at),
        "revoked_at": None if key.revoked_at is None else format_moment(key.revoked_at),
        "tags": tags,
        "weight": key.weight,
        "models": None if key.models is None else list(key.models),
        **structs.asdict(key.limits),
        "model_limits": {name: structs.asdict(one) for name, one in key.model_limits.items()},
        "budget": None,
        "budget_nano": None,
        "spent": None,
        "spent_nano": None,
        "spent_since": None,
    }
    if key.budget is not None and key.currency is not None and key.budget_period is not None:
        description |= {
            "budget": format_budget(Budget(key.budget, key.currency, key.budget_period)),
            "budget_nano": key.budget,
            "spent": format_amount(spent_nano, key.currency),
            "spent_nano": spent_nano,
            "spent_since": format_day(period_begin(key.budget_period, now / 1000)),
        }
    return description
