"""Who calls: static keys, held as SHA-256 hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from reverie.errors import ConfigurationError, InvalidApiKey

KEYS_VARIABLE = "REVERIE_API_KEYS"


class Caller(Struct, frozen=True):
    """Who sent a request. ``name`` is the key's name, fit for logs; never the key."""

    name: str


ANONYMOUS = Caller(name="anonymous")


class Authenticator:
    """Knows the keys. With none at all, every caller is anonymous (see ``http.edge``)."""

    def __init__(self, keys: Iterable[tuple[bytes, str]] = ()) -> None:
        """Take pairs of a key's SHA-256 digest and its name."""
        self._keys = [(digest, Caller(name=name)) for digest, name in keys]

    @property
    def open(self) -> bool:
        """Whether no key is configured."""
        return not self._keys

    def authenticate(self, authorization: bytes | None) -> Caller:
        """Say who calls, by the bytes of the ``Authorization`` header.

        Raises:
            InvalidApiKey: no key was sent, or one that isn't known.
        """
        if self.open:
            return ANONYMOUS
        if authorization is None:
            raise InvalidApiKey("Send your API key as the header 'Authorization: Bearer KEY'.")
        scheme, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        found: Caller | None = None
        for known, caller in self._keys:  # no early exit: each key costs the same time
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None or scheme.lower() != b"bearer":
            raise InvalidApiKey("This API key is not valid. Check it, or ask for a new one.")
        return found


def load_keys(environ: Mapping[str, str], file: Path | None) -> Authenticator:
    """Read the keys of ``REVERIE_API_KEYS`` (comma-separated) and of a file of hashes.

    The file has one ``HASH NAME`` a line, HASH being 64 hexadecimal digits; ``#`` starts a
    comment.

    Raises:
        ConfigurationError: the file can't be read or has a malformed line.
    """
    listed = [key.strip() for key in environ.get(KEYS_VARIABLE, "").split(",")]
    keys = [
        (hashlib.sha256(key.encode()).digest(), f"static-{number}")
        for number, key in enumerate(filter(None, listed), start=1)
    ]
    if file is not None:
        keys += _read_hashes(file)
    return Authenticator(keys)


def _read_hashes(file: Path) -> list[tuple[bytes, str]]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            [f"{file}: server.api_keys_file: can't be read: {reason}"]
        ) from None
    keys, problems = [], []
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
        keys.append((digest, words[1] if len(words) == 2 else f"file-{number}"))
    if problems:
        raise ConfigurationError(problems)
    return keys
