"""Cross-origin requests (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol): which pages and
desktop apps a browser lets call this server.

Rule: a preflight is answered before anybody is asked for a key, since browsers send none with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reverie.http.connection.exchange import Headers, Scope, header

_METHODS = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"
_MAX_AGE = b"600"
_EXPOSED = b", ".join(
    (
        b"X-Request-Id",
        b"Request-Id",
        b"X-Reverie-Ignored",
        b"Retry-After",
        b"WWW-Authenticate",
        b"Idempotent-Replayed",
        b"X-Should-Retry",
        *(
            b"X-RateLimit-%b-%b" % (figure, of)
            for of in (b"Requests", b"Tokens")
            for figure in (b"Limit", b"Remaining", b"Reset")
        ),
    )
)
"""Headers that a page's script may read."""
_NAME = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_HEADER_NAMES = re.compile(rb"%b(?:[ \t]*,[ \t]*%b)*" % (_NAME, _NAME))
_MAX_HEADER_NAMES = 4096


class Cors:
    """The origins that the operator allows, such as ``https://chat.example.org``.

    ``*`` allows all. A port may be ``*``, as in ``http://localhost:*``, which allows every port,
    also the scheme's own, which browsers leave out.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._all = "*" in origins
        self._patterns = [
            re.compile(re.escape(origin.lower()).replace(r":\*", r"(?::[0-9]{1,5})?"))
            for origin in origins
            if origin != "*"
        ]

    @property
    def enabled(self) -> bool:
        return self._all or bool(self._patterns)

    def allows(self, origin: bytes) -> bool:
        """True if pages of this origin may call."""
        name = origin.decode("latin-1").lower()
        return self._all or any(pattern.fullmatch(name) for pattern in self._patterns)

    def headers(self, scope: Scope) -> Headers:
        """What each answer to the request carries."""
        origin = header(scope, b"origin")
        if self._all:
            return [] if origin is None else [(b"access-control-allow-origin", b"*"), _EXPOSE]
        if origin is None or not self.allows(origin):
            return [_VARY]
        return [(b"access-control-allow-origin", origin), _EXPOSE, _VARY]

    def preflight(self, scope: Scope) -> Headers | None:
        """The headers that answer a preflight; None if the request is none that is allowed."""
        if scope["method"] != "OPTIONS" or header(scope, b"access-control-request-method") is None:
            return None
        allowed = self.headers(scope)
        if _EXPOSE not in allowed:
            return None
        answer = [
            *(one for one in allowed if one is not _EXPOSE),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _MAX_AGE),
        ]
        asked = header(scope, b"access-control-request-headers") or b""
        if len(asked) <= _MAX_HEADER_NAMES and _HEADER_NAMES.fullmatch(asked):
            answer.append((b"access-control-allow-headers", asked))
        if header(scope, b"access-control-request-private-network") == b"true":
            answer.append((b"access-control-allow-private-network", b"true"))
        return answer


_VARY = (b"vary", b"Origin")
"""On all answers, lest a cache give an answer that was made for one origin to another."""
_EXPOSE = (b"access-control-expose-headers", _EXPOSED)
