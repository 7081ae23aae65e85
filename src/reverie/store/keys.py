"""Keys in the store: made, found, changed, ended.

A secret is ``rv_`` and 32 random bytes; only its SHA-256 is kept, and it is looked up by the whole
hash, so that neither a reader of the store nor the time a lookup takes tells anything of a secret.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, insert, select, text, update

from reverie.money import Period
from reverie.store.database import schema
from reverie.store.database.prepared import Prepared

_SECRET_PREFIX = "rv_"
_SECRET_BYTES = 32
_KEYS = schema.keys


class RateLimits(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What may be done at once and in a minute; None: as much as you like."""

    rpm: int | None = None
    """Requests in any 60 seconds."""
    tpm: int | None = None
    """Tokens in any 60 seconds, prompts and answers together."""
    concurrency: int | None = None
    """Requests at once, waiting ones included."""

    def __bool__(self) -> bool:
        return self != _UNLIMITED


_UNLIMITED = RateLimits()

Status: TypeAlias = Literal["active", "expired", "revoked"]


class Key(Struct, frozen=True, kw_only=True):
    """A stored key. Times are milliseconds since 1970."""

    id: str
    name: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    weight: int = 1
    models: tuple[str, ...] | None = None
    """Names of the models that it may use; None: all."""
    limits: RateLimits = _UNLIMITED
    model_limits: dict[str, RateLimits] = {}
    budget: int | None = None
    """Nano-units of ``currency`` per ``budget_period``."""
    budget_period: Period | None = None
    currency: str | None = None

    def usable(self, now: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.status(now) == "active"

    def status(self, now: int) -> Status:
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        return "active"

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def hash_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def new_secret() -> str:
    """A new secret, to be shown once."""
    raw = secrets.token_bytes(_SECRET_BYTES)
    return _SECRET_PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def lock_names(connection: Connection) -> None:
    """Let nobody else make or change a key until this transaction ends; reading goes on.

    SQLite's one write lock is held already.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_KEYS)


_LOCK_KEYS = text("LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE")


def create(connection: Connection, key: Key, secret: str) -> None:
    """Add a key."""
    connection.execute(insert(_KEYS).values(hash=hash_of(secret.encode()), **_columns(key)))


def new_id() -> str:
    """An id, as in ``key_9f8e7d6c5b4a3928``: fit for logs and URLs, and no secret."""
    return f"key_{secrets.token_hex(8)}"


def by_hash(connection: Connection, digest: bytes) -> Key | None:
    row = connection.execute(select(_KEYS).where(_KEYS.c.hash == digest)).first()
    return None if row is None else _key(row)


def by_ids(connection: Connection, ids: Iterable[str]) -> dict[str, Key]:
    listed = list(ids)
    rows = _BY_IDS.execute(connection, listed=listed) if listed else ()
    return {row.id: _key(row) for row in rows}


_BY_IDS = Prepared(lambda _, ids: select(_KEYS).where(_KEYS.c.id.in_(ids)))


def find(connection: Connection, name_or_id: str) -> list[Key]:
    """The key of that id, else those of that name."""
    if found := by_ids(connection, [name_or_id]):
        return list(found.values())
    rows = connection.execute(
        select(_KEYS).where(_KEYS.c.name == name_or_id).order_by(_KEYS.c.created_at)
    )
    return [_key(row) for row in rows]


def listed(connection: Connection, *, after: str = "", limit: int | None = None) -> list[Key]:
    """Keys in the order of their ids, beginning after one."""
    query = select(_KEYS).where(_KEYS.c.id > after).order_by(_KEYS.c.id).limit(limit)
    return [_key(row) for row in connection.execute(query)]


def any_exists(connection: Connection) -> bool:
    """Whether a key was ever made here, revoked ones included."""
    return connection.execute(select(_KEYS.c.id).limit(1)).first() is not None


def revoke(connection: Connection, id: str, now: int) -> bool:
    """End a key. Says whether it was usable before."""
    done = connection.execute(
        update(_KEYS).where(_KEYS.c.id == id, _KEYS.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    return done.rowcount > 0


def rotate(connection: Connection, id: str, secret: str) -> bool:
    """Give a key a new secret in place of its old one. Says whether it could have one."""
    done = connection.execute(
        update(_KEYS)
        .where(_KEYS.c.id == id, _KEYS.c.revoked_at.is_(None))
        .values(hash=hash_of(secret.encode()))
    )
    return done.rowcount > 0


def _columns(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "weight": key.weight,
        "models": None if key.models is None else _json(key.models),
        "rpm": key.limits.rpm,
        "tpm": key.limits.tpm,
        "concurrency": key.limits.concurrency,
        "budget": key.budget,
        "budget_period": key.budget_period,
        "currency": key.currency,
        "model_limits": _json(key.model_limits) if key.model_limits else None,
    }


def _key(row: Row[Any]) -> Key:
    columns = row._mapping
    return Key(
        id=columns["id"],
        name=columns["name"],
        created_at=columns["created_at"],
        expires_at=columns["expires_at"],
        revoked_at=columns["revoked_at"],
        weight=columns["weight"],
        models=_parsed(columns["models"], tuple[str, ...]) if columns["models"] else None,
        limits=RateLimits(columns["rpm"], columns["tpm"], columns["concurrency"]),
        model_limits=_parsed(columns["model_limits"], dict[str, RateLimits])
        if columns["model_limits"]
        else {},
        budget=columns["budget"],
        budget_period=columns["budget_period"],
        currency=columns["currency"],
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _parsed(text: str, shape: Any) -> Any:
    return msgspec.json.decode(text, type=shape)
