"""The backend for one engine of a cluster: Reverie's own, on another machine, over TCP."""

from __future__ import annotations

from collections.abc import Callable
from ssl import SSLContext

from pydantic import SecretStr

from reverie.backends.base import Health
from reverie.backends.client.address import public_url
from reverie.backends.own_engine import OwnEngine
from reverie.settings import BackendSettings, ModelSettings

_CONNECT_TIMEOUT = 2.0
"""Seconds: the machines of a cluster are near each other, and one that is gone is silent."""


class MemberBackend(OwnEngine):
    """One engine of a cluster.

    Args:
        name: ``MODEL/NUMBER``, which a replacement has, too.
        url: where it listens.
        key: what requests to it carry.
        tls: checks its certificate.

    Raises:
        ValueError: the URL or the key can't be used.
    """

    kind = "llamacpp"
    recovers = False  # it does, but doesn't say when it is ready again: probes tell
    failure: str | None = None

    def __init__(
        self,
        name: str,
        model: ModelSettings,
        *,
        url: str,
        key: str,
        first_token_timeout: float,
        stall_timeout: float,
        tls: SSLContext | None = None,
    ) -> None:
        address = BackendSettings(url=url, kind="llamacpp", connect_timeout=_CONNECT_TIMEOUT)
        super().__init__(
            name,
            model,
            address.with_key(SecretStr(key)),
            first_token_timeout=first_token_timeout,
            stall_timeout=stall_timeout,
            tls=tls,
            probing=True,
        )
        self.url = public_url(url)
        self.slots = model.slots
        self.context: int | None = model.context or None
        self.capacity: int | None = None

    def resize(self, *, slots: int, context: int, kv_tokens: int, gateways: int) -> None:
        """Note what the engine has room for, and how many gateways share it.

        Each gateway takes its part of the tokens, lest they together break off all that runs there
        (``EmbeddedBackend.capacity``); and one whole context in any case.
        """
        self.slots = slots or self.slots
        self.context = context or self.context
        if kv_tokens and self._generates:
            self.capacity = max(kv_tokens // max(1, gateways), context)

    @property
    def ready(self) -> bool:
        return self._http.ready

    @property
    def health(self) -> Health | None:
        return self._http.health

    def probe_soon(self) -> None:
        self._http.probe_soon()

    async def start(self, on_change: Callable[[], None]) -> None:
        await self._http.start(on_change)

    async def stop(self) -> None:
        await self._http.stop()
