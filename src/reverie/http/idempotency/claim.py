"""``Idempotency-Key`` and ``Last-Event-ID``: headers → a claim on one answer."""

from __future__ import annotations

import hashlib

from reverie.errors import InvalidRequest
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.connection.exchange import Scope

_MAX_KEY = 255
_MAX_ID_DIGITS = 16


def claim_of(scope: Scope, dialect: str, body: bytes, *, stream: bool) -> Claim | None:
    """The claim that a request's headers make; None without an ``Idempotency-Key``.

    ``Last-Event-ID`` has no effect on a request that isn't streamed.

    Raises:
        InvalidRequest: a header is malformed or repeated.
    """
    key = _only(scope, "Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY or not all(0x21 <= byte <= 0x7E for byte in key):
        raise InvalidRequest(
            "Idempotency-Key is 1 to 255 visible ASCII characters.", param="Idempotency-Key"
        )
    after = _only(scope, "Last-Event-ID") or b"0"
    if not after.isdigit() or len(after) > _MAX_ID_DIGITS:
        raise InvalidRequest(
            "Last-Event-ID is the number of the last event that arrived.", param="Last-Event-ID"
        )
    fingerprint = hashlib.sha256(dialect.encode() + b"\0" + body).digest()
    return Claim(key.decode(), fingerprint, int(after) if stream else 0)


def _only(scope: Scope, name: str) -> bytes | None:
    """The value of a header that may be sent once.

    Raises:
        InvalidRequest: it was sent more often.
    """
    wanted = name.lower().encode()
    given = [bytes(value) for key, value in scope["headers"] if key == wanted]
    if len(given) > 1:
        raise InvalidRequest(f"{name} is there {len(given)} times.", param=name)
    return given[0] if given else None
