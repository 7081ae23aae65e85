"""Who calls: static keys from the environment or a file, and the store's keys, by their hashes.

Rule: a key is recognised by the whole SHA-256 of what was sent. Hashes are compared in constant
time, or looked up in the store, so that no part of a secret decides how long anything takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from reverie.background import Loop
from reverie.errors import (
    AccountsUnavailable,
    ConfigurationError,
    Forbidden,
    InvalidApiKey,
    Overloaded,
    StoreFailure,
)
from reverie.files import read_whole
from reverie.store import keys
from reverie.store.database.engine import Store
from reverie.store.database.migrate import is_current
from reverie.store.keys import Key, hash_of
from reverie.times import now_ms

KEYS_VARIABLE = "REVERIE_API_KEYS"
ADMIN_VARIABLE = "REVERIE_ADMIN_KEY"

T = TypeVar("T")

_CACHED = 1.0
"""Seconds for which a key is known without asking the store again. So a revoked key may still list
models for that long; a reservation asks the store in any case."""
_AGEING = _CACHED / 2
"""Seconds after which a key that is used is read again meanwhile, so that nobody waits for it."""
_MAX_CACHED = 20_000
_MAX_READ = 256
"""Keys that are read together."""
_MAX_UNKNOWN = 4096
"""Hashes of keys that don't exist which are remembered, apart from those of keys that do."""
_UNKNOWN_LOOKUPS = 2
"""Look-ups at once of keys that weren't known before. Threads are left for those that were."""
_MAX_WAITING = 256
"""Further ones that may wait for that."""
_MIN_ADMIN_KEY = 16


class Caller(Struct, frozen=True):
    """Who sent a request."""

    name: str
    """The key's name, for logs; never the secret."""
    key_id: str
    """What the ledger calls the key."""
    stored: bool = False
    """True if the key and its limits are in the store."""
    weight: int = 1
    limited: bool = False
    """True if the key had limits or a budget when it was last read."""


ANONYMOUS = Caller(name="anonymous", key_id="anonymous")


class Authenticator:
    """Recognises keys. While there is none at all, every caller is anonymous.

    Args:
        static: pairs of a key's SHA-256 digest and its name.
        store: holds further keys.
        admin_key: opens the admin routes and no others.
    """

    def __init__(
        self,
        static: Iterable[tuple[bytes, str]] = (),
        store: Store | None = None,
        admin_key: str | None = None,
    ) -> None:
        self.replace_static(static)
        self._stored = None if store is None else _StoredKeys(store)
        self._admin = None if admin_key is None else hash_of(admin_key.encode())

    @property
    def open(self) -> bool:
        """True while there is no key that a caller could have."""
        return self.open_with(self._static)

    def open_with(self, static: Sequence[object]) -> bool:
        """As ``open``, if these were the static keys."""
        return not static and (self._stored is None or not self._stored.has_keys)

    @property
    def static(self) -> list[tuple[bytes, str]]:
        """The static keys, as they were given."""
        return [(digest, caller.name) for digest, caller in self._static]

    def replace_static(self, static: Iterable[tuple[bytes, str]]) -> None:
        """Replace the static keys."""
        self._static = [(digest, Caller(name=name, key_id=name)) for digest, name in static]

    def check_store(self) -> None:
        """Find out whether the store has keys. Blocks; creates no store.

        Raises:
            StoreFailure
        """
        if self._stored is not None:
            self._stored.check()

    async def start(self) -> None:
        """Find out whether the store has keys, and watch for the first one until it has.

        Raises:
            StoreFailure
        """
        if self._stored is not None:
            await self._stored.start()

    async def stop(self) -> None:
        """Stop watching. Idempotent."""
        if self._stored is not None:
            await self._stored.stop()

    async def authenticate(self, authorization: bytes | None) -> Caller:
        """Identify the caller by the value of the ``Authorization`` header.

        Raises:
            InvalidApiKey: no key was sent, or an unknown one.
            AccountsUnavailable: the store, which may know the key, doesn't answer.
        """
        if self.open:
            return await self._by_first_key(authorization) or ANONYMOUS
        digest = _bearer(authorization)
        found: Caller | None = None
        for known, caller in self._static:  # no early exit: each key costs the same time
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None and self._stored is not None:
            found = await self._stored.find(digest)
        if found is None:
            raise InvalidApiKey("This API key is not valid. Check it, or ask for a new one.")
        return found

    async def _by_first_key(self, authorization: bytes | None) -> Caller | None:
        """The caller, if the store's first key was created a moment ago and is used already."""
        if self._stored is None or authorization is None:
            return None
        try:
            return await self._stored.find(_bearer(authorization))
        except InvalidApiKey:
            return None

    async def authenticate_admin(self, authorization: bytes | None) -> None:
        """Admit the holder of the admin key.

        Raises:
            InvalidApiKey: no key was sent, or an unknown one.
            Forbidden: the key is a user's.
            AccountsUnavailable: the store, which may know the key, doesn't answer.
        """
        digest = _bearer(authorization)
        if self._admin is not None and hmac.compare_digest(self._admin, digest):
            return
        if not self.open:
            await self.authenticate(authorization)
            raise Forbidden("This key may not use the admin routes. They need the admin key.")
        raise InvalidApiKey(
            "The admin routes need the admin key, which the operator sets in REVERIE_ADMIN_KEY."
        )


class _Known:
    """A key of the store, and who calls with it."""

    __slots__ = ("caller", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.caller = Caller(key.name, key.id, stored=True, weight=key.weight, limited=key.limited)


class _StoredKeys:
    """The store's keys, each cached for a moment."""

    def __init__(self, store: Store) -> None:
        self.has_keys = False
        self._store = store
        self._known: OrderedDict[bytes, tuple[float, _Known]] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._lookups = asyncio.Semaphore(_UNKNOWN_LOOKUPS)
        self._waiting = 0
        self._reading: dict[bytes, asyncio.Task[_Known | None]] = {}
        self._ageing: set[bytes] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._watching: Loop | None = None

    def check(self) -> None:
        self.has_keys = is_current(self._store) and self._any_exists()

    async def start(self) -> None:
        self.has_keys = await asyncio.to_thread(self._any_exists)
        if not self.has_keys:
            self._watching = Loop("key watcher", self._watch)

    async def stop(self) -> None:
        if self._watching is not None:
            await self._watching.stop()

    async def find(self, digest: bytes) -> Caller | None:
        """The caller whose key has this hash, if the key is usable now.

        Raises:
            Overloaded: too many keys that nobody has heard of are being looked up.
        """
        now = time.monotonic()
        asked, known = self._known.get(digest, (0.0, None))
        if now - asked > _CACHED and now - self._unknown.get(digest, 0.0) > _CACHED:
            known = await self._read_once(digest)
        elif known is not None and now - asked > _AGEING:
            self._ageing.add(digest)
            if self._refreshing is None:
                self._refreshing = asyncio.create_task(self._refresh())
        return known.caller if known is not None and known.key.usable(now_ms()) else None

    async def _read_once(self, digest: bytes) -> _Known | None:
        """Read a key from the store; requests that want the same key share one read."""
        task = self._reading.get(digest)
        if task is None:
            known = digest in self._known
            if not known and self._waiting >= _MAX_WAITING:
                raise Overloaded(
                    "Too many keys that are not known are being tried. Try again shortly.",
                    retry_after=1,
                )
            task = asyncio.create_task(self._look_up(digest) if known else self._queue_up(digest))
            self._reading[digest] = task
            task.add_done_callback(partial(self._end_reading, digest))
            if not known:
                self._waiting += 1
                task.add_done_callback(self._dequeue)
        try:
            async with asyncio.timeout(self._store.settings.timeout):
                return await asyncio.shield(task)
        except (TimeoutError, StoreFailure):
            raise AccountsUnavailable from None

    async def _queue_up(self, digest: bytes) -> _Known | None:
        async with self._lookups:
            return await self._look_up(digest)

    def _end_reading(self, digest: bytes, task: asyncio.Task[_Known | None]) -> None:
        self._reading.pop(digest, None)
        if not task.cancelled():
            task.exception()  # so that none is logged where all who waited have given up

    def _dequeue(self, _: asyncio.Task[_Known | None]) -> None:
        self._waiting -= 1

    async def _look_up(self, digest: bytes) -> _Known | None:
        await self._read_now([digest])
        _, known = self._known.get(digest, (0.0, None))
        return known

    async def _refresh(self) -> None:
        """Read the keys that age while they are used, many together."""
        try:
            while self._ageing:
                some = [self._ageing.pop() for _ in range(min(len(self._ageing), _MAX_READ))]
                with contextlib.suppress(StoreFailure):  # whoever needs one of them asks again
                    await self._read_now(some)
        finally:
            self._refreshing = None

    async def _read_now(self, digests: Sequence[bytes]) -> None:
        began = time.monotonic()
        found = await asyncio.to_thread(self._read, digests)
        for digest in digests:
            if (key := found.get(digest)) is not None:
                _remember(self._known, digest, (began, _Known(key)), _MAX_CACHED)
            else:
                self._known.pop(digest, None)
                _remember(self._unknown, digest, began, _MAX_UNKNOWN)

    def _read(self, digests: Sequence[bytes]) -> dict[bytes, Key]:
        with self._store.read() as connection:
            return keys.by_hashes(connection, digests)

    def _any_exists(self) -> bool:
        with self._store.read() as connection:
            return keys.any_exists(connection)

    async def _watch(self) -> None:
        """Watch for the first key: from then on, callers need one."""
        while not self.has_keys:
            await asyncio.sleep(_CACHED)
            with contextlib.suppress(StoreFailure):
                self.has_keys = await asyncio.to_thread(self._any_exists)


def _remember(cache: OrderedDict[bytes, T], digest: bytes, value: T, most: int) -> None:
    cache[digest] = value
    cache.move_to_end(digest)
    while len(cache) > most:
        cache.popitem(last=False)


def _bearer(authorization: bytes | None) -> bytes:
    """The hash of the key in an ``Authorization`` header.

    Raises:
        InvalidApiKey: the header holds none.
    """
    scheme, _, token = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise InvalidApiKey("Send your API key as the header 'Authorization: Bearer KEY'.")
    return hash_of(token.strip())


def static_keys(
    environ: Mapping[str, str], file: Path | None, *, reloading: bool = False
) -> list[tuple[bytes, str]]:
    """Read the keys of ``REVERIE_API_KEYS`` (comma-separated) and of a file of hashes.

    The file has one ``HASH NAME`` a line, HASH being 64 hexadecimal digits; ``#`` starts a
    comment.

    Args:
        reloading: the file was read before; see ``files.read_whole``.

    Raises:
        ConfigurationError: the file can't be read or has a malformed line.
    """
    listed = [key.strip() for key in environ.get(KEYS_VARIABLE, "").split(",")]
    found = [
        (hash_of(key.encode()), f"static-{number}")
        for number, key in enumerate(filter(None, listed), start=1)
    ]
    if file is not None:
        found += _read_hashes(file, reloading=reloading)
    return found


def admin_key(environ: Mapping[str, str]) -> str | None:
    """The key of the admin routes, in ``REVERIE_ADMIN_KEY``.

    Raises:
        ConfigurationError: it is too short to be safe, or it is a user's key too.
    """
    key = environ.get(ADMIN_VARIABLE, "").strip()
    if not key:
        return None
    problem = None
    if len(key) < _MIN_ADMIN_KEY:
        problem = f"needs at least {_MIN_ADMIN_KEY} characters; openssl rand -hex 32 makes a key"
    elif key in [given.strip() for given in environ.get(KEYS_VARIABLE, "").split(",")]:
        problem = f"must not be one of {KEYS_VARIABLE}: users' keys never open the admin routes"
    if problem is not None:
        raise ConfigurationError([f"environment {ADMIN_VARIABLE}: {problem}"])
    return key


def _read_hashes(file: Path, *, reloading: bool) -> list[tuple[bytes, str]]:
    try:
        lines = read_whole(file, is_reload=reloading).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            [f"{file}: server.api_keys_file: can't be read: {reason}"]
        ) from None
    found, problems = [], []
    for number, line in enumerate(lines, start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            digest = bytes.fromhex(words[0])
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size or len(words) > 2:
            problems.append(
                f"{file}: line {number}: write 64 hexadecimal digits (a key's SHA-256) and a name"
            )
            continue
        found.append((digest, words[1] if len(words) == 2 else f"file-{number}"))
    if problems:
        raise ConfigurationError(problems)
    return found
