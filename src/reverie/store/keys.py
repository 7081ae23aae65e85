"""API keys in the store: created, found, changed, rotated, revoked.

A secret is ``rv_`` and 32 random bytes. Only its SHA-256 is stored, and a key is looked up by the
whole hash, so that neither the store nor the time of a lookup reveals anything about a secret.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct, structs
from sqlalchemy import Connection, Row, insert, select, text
from sqlalchemy import update as sql_update

from reverie.money import Period
from reverie.store.database import schema
from reverie.store.database.known import known
from reverie.store.database.prepared import Prepared
from reverie.store.limits import RateLimits

_SECRET_PREFIX = "rv_"
_SECRET_BYTES = 32
_KEYS = schema.keys
_MAX_KNOWN = 10_000
"""Keys that a writer knows at most."""


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
    """Names of the models that it may use; None: all of them."""
    limits: RateLimits = RateLimits()
    model_limits: dict[str, RateLimits] = {}
    budget: int | None = None
    """Nano-units of ``currency`` per ``budget_period``."""
    budget_period: Period | None = None
    currency: str | None = None

    @property
    def limited(self) -> bool:
        """True if the tokens or the money of its requests are limited."""
        limits = (self.limits, *self.model_limits.values())
        return self.budget is not None or any(one.tpm is not None for one in limits)

    def usable(self, now: int) -> bool:
        """True unless the key is revoked or expired."""
        return self.status(now) == "active"

    def status(self, now: int) -> Status:
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        return "active"

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


def hash_of(secret: bytes) -> bytes:
    """The hash by which a key is known."""
    return hashlib.sha256(secret).digest()


def new_secret() -> str:
    """Make a secret, to be shown once."""
    raw = secrets.token_bytes(_SECRET_BYTES)
    return _SECRET_PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def lock_names(connection: Connection) -> None:
    """Let nobody else create or change a key until this transaction ends. Reads go on.

    On SQLite this does nothing: a transaction that writes already holds the one write lock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_KEYS)


_LOCK_KEYS = text("LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE")


def create(connection: Connection, key: Key, secret: str) -> None:
    """Add a key."""
    connection.execute(insert(_KEYS).values(hash=hash_of(secret.encode()), **_columns(key)))


def new_id() -> str:
    """Make an id such as ``key_9f8e7d6c5b4a3928``. Ids are no secrets: logs and URLs hold them."""
    return f"key_{secrets.token_hex(8)}"


def by_hash(connection: Connection, digest: bytes) -> Key | None:
    return by_hashes(connection, [digest]).get(digest)


def by_hashes(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, Key]:
    """Hash → its key, for those that there are; ``digests`` isn't empty."""
    rows = _BY_HASHES.execute(connection, listed=digests)
    return {bytes(row.hash): _key_of_prepared(row) for row in rows}


def by_ids(connection: Connection, ids: Iterable[str]) -> dict[str, Key]:
    listed = list(ids)
    kept = known(connection, _Known)
    if kept is None:
        return _read(connection, listed)
    if len(kept) > _MAX_KNOWN:
        kept.clear()
    if missing := [id for id in listed if id not in kept]:
        found = _read(connection, missing)
        kept.update({id: found.get(id) for id in missing})
    return {id: key for id in listed if (key := kept[id]) is not None}


class _Known(dict[str, Key | None]):
    """Keys by their ids; None: there is none. No writer that knows any changes one."""


def _read(connection: Connection, ids: Sequence[str]) -> dict[str, Key]:
    rows = _BY_IDS.execute(connection, listed=ids) if ids else ()
    return {row.id: _key_of_prepared(row) for row in rows}


_BY_HASHES = Prepared(lambda _, digests: select(_KEYS).where(_KEYS.c.hash.in_(digests)))
_BY_IDS = Prepared(lambda _, ids: select(_KEYS).where(_KEYS.c.id.in_(ids)))


@functools.lru_cache(maxsize=4096)
def _key_of_prepared(row: Any) -> Key:
    """As ``key_of_row``, once for each content of a row: every request reads its key."""
    return key_of_row(row)


def find(connection: Connection, name_or_id: str) -> list[Key]:
    """The key with that id, or else the keys with that name, oldest first."""
    if found := by_ids(connection, [name_or_id]):
        return list(found.values())
    rows = connection.execute(
        select(_KEYS).where(_KEYS.c.name == name_or_id).order_by(_KEYS.c.created_at)
    )
    return [key_of_row(row) for row in rows]


def any_exists(connection: Connection) -> bool:
    """True once a key was created here, even if it is revoked by now."""
    return connection.execute(select(_KEYS.c.id).limit(1)).first() is not None


def update(connection: Connection, key: Key) -> None:
    """Replace what is stored of a key, except its secret and when it was created and revoked."""
    columns = _columns(key)
    for name in ("id", "created_at", "revoked_at"):
        del columns[name]
    connection.execute(sql_update(_KEYS).where(_KEYS.c.id == key.id).values(columns))


def revoke(connection: Connection, id: str, now: int) -> bool:
    """Revoke a key. False if there is none, or if it was revoked before."""
    done = connection.execute(
        sql_update(_KEYS)
        .where(_KEYS.c.id == id, _KEYS.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return done.rowcount > 0


def rotate(connection: Connection, id: str, secret: str) -> bool:
    """Replace a key's secret. False if there is no such key, or if it is revoked."""
    done = connection.execute(
        sql_update(_KEYS)
        .where(_KEYS.c.id == id, _KEYS.c.revoked_at.is_(None))
        .values(hash=hash_of(secret.encode()))
    )
    return done.rowcount > 0


def _columns(key: Key) -> dict[str, Any]:
    columns = structs.asdict(key)
    del columns["limits"]
    return {
        **structs.asdict(key.limits),
        **columns,
        "models": None if key.models is None else _json(key.models),
        "model_limits": _json(key.model_limits) if key.model_limits else None,
    }


def key_of_row(row: Row[Any]) -> Key:
    """A key as its row of the table has it."""
    columns = row._asdict()
    del columns["hash"]
    limits = RateLimits(*(columns.pop(kind) for kind in RateLimits.__struct_fields__))
    models, model_limits = columns.pop("models"), columns.pop("model_limits")
    return Key(
        **columns,
        limits=limits,
        models=_parsed(models, tuple[str, ...]) if models else None,
        model_limits=_parsed(model_limits, dict[str, RateLimits]) if model_limits else {},
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _parsed(text: str, shape: Any) -> Any:
    return msgspec.json.decode(text, type=shape)
