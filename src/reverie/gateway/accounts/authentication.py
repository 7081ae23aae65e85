"""Who calls: static keys from the environment or a file, and the store's keys, by their hashes.

Rule: a key is known by the whole SHA-256 of what was sent. Hashes are compared in constant time, or
looked up in the store; no part of a secret ever decides how long something takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from reverie.errors import AccountsUnavailable, ConfigurationError, Forbidden, InvalidApiKey
from reverie.files import read_whole
from reverie.store import keys
from reverie.store.database.engine import Store, StoreFailure
from reverie.store.database.migrate import is_current
from reverie.store.keys import Key, now_ms

KEYS_VARIABLE = "REVERIE_API_KEYS"
ADMIN_VARIABLE = "REVERIE_ADMIN_KEY"

_REMEMBERED = 1.0
"""Seconds for which a key is known without asking the store. A revoked one ends by then, and a
reservation asks anew in any case."""
_MAX_REMEMBERED = 20_000
_MIN_ADMIN_KEY = 16


class Caller(Struct, frozen=True):
    """Who sent a request."""

    name: str
    """The key's name, fit for logs; never the key."""
    key_id: str
    """As the ledger names it."""
    stored: bool = False
    """Whether the store holds the key and its limits."""
    weight: int = 1


ANONYMOUS = Caller(name="anonymous", key_id="anonymous")


class Authenticator:
    """Knows the keys. With none at all, every caller is anonymous (see ``http.access``).

    Args:
        static: pairs of a key's SHA-256 digest and its name.
        store: where further keys are looked up.
        admin_key: opens the admin routes, and no other.
    """

    def __init__(
        self,
        static: Iterable[tuple[bytes, str]] = (),
        store: Store | None = None,
        admin_key: str | None = None,
    ) -> None:
        self.replace_static(static)
        self._stored = None if store is None else _StoredKeys(store)
        self._admin = None if admin_key is None else _digest(admin_key.encode())

    @property
    def open(self) -> bool:
        """Whether there is no key that a caller could have."""
        return not self._static and (self._stored is None or not self._stored.exist)

    def open_with(self, static: Iterable[tuple[bytes, str]]) -> bool:
        """Whether there would be no key, were these the static ones."""
        return not list(static) and (self._stored is None or not self._stored.exist)

    def replace_static(self, static: Iterable[tuple[bytes, str]]) -> None:
        """Know these static keys from now on, and no others."""
        self._static = [(digest, Caller(name=name, key_id=name)) for digest, name in static]

    def look(self) -> None:
        """Learn whether the store has keys, if there is a store by now. Blocks, and makes nothing.

        Raises:
            StoreFailure
        """
        if self._stored is not None:
            self._stored.look()

    async def start(self) -> None:
        """Learn whether the store has keys, and keep learning until it has.

        Raises:
            StoreFailure
        """
        if self._stored is not None:
            await self._stored.start()

    async def stop(self) -> None:
        if self._stored is not None:
            await self._stored.stop()

    async def authenticate(self, authorization: bytes | None) -> Caller:
        """Say who calls, by the bytes of the ``Authorization`` header.

        Raises:
            InvalidApiKey: no key was sent, or one that isn't known.
            AccountsUnavailable: the store, which may know it, doesn't answer.
        """
        if self.open:
            return await self._known_by_now(authorization) or ANONYMOUS
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

    async def _known_by_now(self, authorization: bytes | None) -> Caller | None:
        """The caller, where the store's first key was made a moment ago and is used already."""
        if self._stored is None or authorization is None:
            return None
        try:
            return await self._stored.find(_bearer(authorization))
        except InvalidApiKey:
            return None

    async def authenticate_admin(self, authorization: bytes | None) -> None:
        """Let in the holder of the admin key.

        Raises:
            InvalidApiKey: no key was sent, or one that isn't known.
            Forbidden: the key is a user's.
            AccountsUnavailable
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


class _StoredKeys:
    """The store's keys, remembered for a moment."""

    def __init__(self, store: Store) -> None:
        self.exist = False
        self._store = store
        self._known: OrderedDict[bytes, tuple[float, Key | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Key | None]] = {}
        self._watching: asyncio.Task[None] | None = None

    def look(self) -> None:
        self.exist = is_current(self._store) and self._any()

    async def start(self) -> None:
        self.exist = await asyncio.to_thread(self._any)
        if not self.exist:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def find(self, digest: bytes) -> Caller | None:
        """The caller whose key has this hash, if it is usable now."""
        asked, key = self._known.get(digest, (0.0, None))
        if time.monotonic() - asked > _REMEMBERED:
            key = await self._ask_once(digest)
        if key is None or not key.usable(now_ms()):
            return None
        return Caller(key.name, key.id, stored=True, weight=key.weight)

    async def _ask_once(self, digest: bytes) -> Key | None:
        """Ask the store; requests that want the same key share the answer."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        try:
            async with asyncio.timeout(self._store.settings.timeout):
                return await asyncio.shield(task)
        except (TimeoutError, StoreFailure):
            raise AccountsUnavailable from None

    async def _ask(self, digest: bytes) -> Key | None:
        began = time.monotonic()
        key = await asyncio.to_thread(self._read, digest)
        self._known[digest] = (began, key)
        self._known.move_to_end(digest)
        while len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        return key

    def _read(self, digest: bytes) -> Key | None:
        with self._store.read() as connection:
            return keys.by_hash(connection, digest)

    def _any(self) -> bool:
        with self._store.read() as connection:
            return keys.any_exists(connection)

    async def _watch(self) -> None:
        """Notice the first key: from then on, callers need one."""
        while not self.exist:
            await asyncio.sleep(_REMEMBERED)
            with contextlib.suppress(StoreFailure):
                self.exist = await asyncio.to_thread(self._any)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _bearer(authorization: bytes | None) -> bytes:
    """The hash of the key in an ``Authorization`` header.

    Raises:
        InvalidApiKey: there is none.
    """
    scheme, _, token = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise InvalidApiKey("Send your API key as the header 'Authorization: Bearer KEY'.")
    return _digest(token.strip())


def static_keys(
    environ: Mapping[str, str], file: Path | None, *, again: bool = False
) -> list[tuple[bytes, str]]:
    """Read the keys of ``REVERIE_API_KEYS`` (comma-separated) and of a file of hashes.

    The file has one ``HASH NAME`` a line, HASH being 64 hexadecimal digits; ``#`` starts a
    comment.

    Args:
        again: as in ``files.read_whole``.

    Raises:
        ConfigurationError: the file can't be read or has a malformed line.
    """
    listed = [key.strip() for key in environ.get(KEYS_VARIABLE, "").split(",")]
    found = [
        (_digest(key.encode()), f"static-{number}")
        for number, key in enumerate(filter(None, listed), start=1)
    ]
    if file is not None:
        found += _read_hashes(file, again=again)
    return found


def admin_key(environ: Mapping[str, str]) -> str | None:
    """The key of the admin routes, in ``REVERIE_ADMIN_KEY``.

    Raises:
        ConfigurationError: it is too short to be safe, or is a user's key as well.
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


def _read_hashes(file: Path, *, again: bool) -> list[tuple[bytes, str]]:
    try:
        lines = read_whole(file, again=again).decode().splitlines()
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
