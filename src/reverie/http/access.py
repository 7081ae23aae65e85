"""The first check of every request: its id, and whether its caller may use this server."""

from __future__ import annotations

import re
import uuid
from urllib.parse import urlsplit

from reverie.addresses import is_loopback
from reverie.errors import Forbidden
from reverie.gateway.accounts.authentication import Authenticator, Caller
from reverie.http.connection.exchange import Scope, header

_ACCEPTABLE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Access:
    """Gives each request its id and its caller.

    Without keys only this machine may call (docs/protocol.md#who-may-call). The peer's address
    doesn't prove that by itself: a web page in a browser here could reach the port under a name of
    its own (DNS rebinding) or from its own origin, so both names must be this machine's too.
    """

    def __init__(self, authenticator: Authenticator, *, open_to_all: bool) -> None:
        self._authenticator = authenticator
        self._open_to_all = open_to_all

    def request_id(self, scope: Scope) -> str:
        """The caller's ``X-Request-Id`` if it is harmless, else a new id."""
        given = header(scope, b"x-request-id")
        if given is not None and _ACCEPTABLE_ID.fullmatch(given):
            return given.decode()
        return f"req_{uuid.uuid4().hex}"

    async def admit(self, scope: Scope) -> Caller:
        """Identify the caller.

        Raises:
            InvalidApiKey, Forbidden, AccountsUnavailable
        """
        if self._authenticator.open and not self._open_to_all and not _comes_from_here(scope):
            raise Forbidden(
                "Without API keys this server answers callers on its own machine only. "
                "The operator can set REVERIE_API_KEYS."
            )
        return await self._authenticator.authenticate(header(scope, b"authorization"))

    async def admit_admin(self, scope: Scope) -> None:
        """Admit the holder of the admin key.

        Raises:
            InvalidApiKey, Forbidden
        """
        await self._authenticator.authenticate_admin(header(scope, b"authorization"))

    async def admit_operator(self, scope: Scope) -> None:
        """Admit callers who may see operational figures: this machine, and holders of a key."""
        if not _comes_from_here(scope):
            await self.admit(scope)


def _comes_from_here(scope: Scope) -> bool:
    """True if the peer and the names in ``Host`` and ``Origin`` all are this machine."""
    client = scope.get("client")
    origin = header(scope, b"origin")
    names = [_host_of(b"//" + (header(scope, b"host") or b"localhost"))]
    if origin is not None:
        names.append(_host_of(origin))
    return (client is None or is_loopback(client[0])) and all(map(is_loopback, names))


def _host_of(url: bytes) -> str:
    try:
        return urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return ""
