"""``Idempotency-Key`` and ``Last-Event-ID``: headers → a claim on one answer."""

from __future__ import annotations

import hashlib

from reverie.errors import InvalidHeader
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.connection.exchange import Scope, header

_MAX_KEY = 255
_MAX_ID_DIGITS = 16


def claim_of(
    scope: Scope, dialect: str, body: bytes, *, stream: bool, own_key: str | None = None
) -> Claim | None:
    """The claim that a request makes; None without an ``Idempotency-Key``.

    ``Last-Event-ID`` has no effect on a request that isn't streamed.

    Args:
        own_key: the key to use where the client sent none.

    Raises:
        InvalidHeader: a header is malformed or repeated.
    """
    key = None
    if header(scope, b"idempotency-key") is not None:
        key = _only(scope, "Idempotency-Key")
    if key is None:
        if own_key is None:
            return None
        key = own_key.encode()
    if not 0 < len(key) <= _MAX_KEY or not all(0x21 <= byte <= 0x7E for byte in key):
        raise InvalidHeader(
            "Idempotency-Key", "Idempotency-Key is 1 to 255 visible ASCII characters."
        )
    after = _only(scope, "Last-Event-ID") or b"0"
    if not after.isdigit() or len(after) > _MAX_ID_DIGITS:
        raise InvalidHeader(
            "Last-Event-ID", "Last-Event-ID is the number of the last event that arrived."
        )
    fingerprint = hashlib.sha256(dialect.encode() + b"\0" + body).digest()
    return Claim(key.decode(), fingerprint, int(after) if stream else 0)


def _only(scope: Scope, name: str) -> bytes | None:
    """The value of a header that may be sent once.

    Raises:
        InvalidHeader: it was sent more often.
    """
    wanted = name.lower().encode()
    given = [bytes(value) for key, value in scope["headers"] if key == wanted]
    if len(given) > 1:
        raise InvalidHeader(name, f"{name} is there {len(given)} times.")
    return given[0] if given else None
