"""The first check of every request: its id, and whether its caller may use this server."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from reverie import correlation
from reverie.errors import Forbidden
from reverie.gateway.accounts.authentication import Authenticator, Caller
from reverie.gateway.record import RequestRecord
from reverie.gateway.traces.tracer import Tracer
from reverie.http.connection.exchange import Scope, header
from reverie.http.local_callers import LocalCallers
from reverie.http.trusted_proxies import TrustedProxies
from reverie.ids import random_id
from reverie.trace_context import TRACEPARENT, TraceContext, read_context

_ACCEPTABLE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_ID = "reverie.request_id"


class Access:
    """Gives each request its id and its caller.

    Without keys only this machine may call (docs/protocol.md#who-may-call).

    Args:
        trusted_proxies: networks of proxies whose word counts.
        allows_origin: tells whether the operator lets pages of an origin call.
        tracer: traces requests; None: nobody does.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        open_to_all: bool,
        trusted_proxies: Sequence[str] = (),
        allows_origin: Callable[[bytes], bool] = lambda _: False,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._authenticator = authenticator
        self._open_to_all = open_to_all
        proxies = TrustedProxies(trusted_proxies)
        self._client_of = proxies.client_of
        self._local = LocalCallers(proxies, allows_origin)

    def request_id(self, scope: Scope) -> str:
        """The caller's ``X-Request-Id`` if it is harmless, else a new id; always the same.

        From the first call on, the task works for this request.
        """
        found: str | None = scope.get(_ID)
        if found is None:
            given = header(scope, b"x-request-id")
            usable = given is not None and _ACCEPTABLE_ID.fullmatch(given)
            found = given.decode() if given and usable else f"req_{random_id()}"
            scope[_ID] = found
            correlation.bind(found)
        return found

    def new_record(self, scope: Scope) -> RequestRecord:
        """The record of a request that begins now, and its trace."""
        id = self.request_id(scope)
        if self._tracer is None:
            record = RequestRecord(id, scope["path"])
        else:
            record = self._tracer.record(id, scope, self._claimed_context(scope))
        record.client = self._client_of(scope)
        return record

    def _claimed_context(self, scope: Scope) -> TraceContext | None:
        """The caller's place in a trace, if it has a key or is on this machine, should it be
        admitted at all. Others don't choose what is traced, nor in which trace.
        """
        if header(scope, TRACEPARENT) is None:
            return None
        is_known = not self._authenticator.open or self._local.have_sent(scope)
        return read_context(scope["headers"]) if is_known else None

    async def admit(self, scope: Scope) -> Caller:
        """Identify the caller.

        Raises:
            InvalidApiKey, Forbidden, AccountsUnavailable
        """
        if self._authenticator.open and not self._open_to_all and not self._local.have_sent(scope):
            raise Forbidden(_NOT_LOCAL)
        return await self._authenticator.authenticate(_authorization(scope))

    async def admit_admin(self, scope: Scope) -> None:
        """Admit the holder of the admin key.

        Raises:
            InvalidApiKey, Forbidden
        """
        await self._authenticator.authenticate_admin(header(scope, b"authorization"))

    async def admit_operator(self, scope: Scope) -> None:
        """Admit callers who may see operational figures: this machine, and holders of a key."""
        if not self._local.have_sent(scope):
            await self.admit(scope)


_NOT_LOCAL = (
    "Without API keys this server answers callers on its own machine only, and none that come "
    "through a proxy. Its operator can set REVERIE_API_KEYS, or name the proxy in "
    "server.trusted_proxies; behind a Livepeer orchestrator, set server.no_auth."
)


def _authorization(scope: Scope) -> bytes | None:
    """The ``Authorization`` header, or what it would be for Anthropic's ``x-api-key``."""
    key = header(scope, b"x-api-key")
    given = header(scope, b"authorization")
    return b"Bearer " + key if given is None and key is not None else given
