"""A worker's siblings, reached through their parent."""

from __future__ import annotations

from contextlib import suppress

from reverie.errors import ConfigurationError, Overloaded
from reverie.gateway.serving.config_diff import Changes
from reverie.gateway.siblings import Reload, Siblings
from reverie.workers.channel import Channel, ChannelClosed
from reverie.workers.messages import Asked, Draining, Reloaded, decode, encode

_TIMEOUT = 5.0
"""Seconds for all of them to answer."""


class WorkerSiblings(Siblings):
    """The other workers."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def ask(self, name: str, body: bytes = b"") -> list[bytes]:
        try:
            asked = encode(Asked(name, body))
            return decode(await self._channel.ask("siblings", asked, timeout=_TIMEOUT), list[bytes])
        except (ChannelClosed, TimeoutError):
            return []

    async def set_draining(self, model: str, backend: str, draining: bool) -> None:
        told = encode(Draining(model, backend, draining))
        with suppress(ChannelClosed, TimeoutError):
            await self._channel.ask("draining", told, timeout=_TIMEOUT)

    async def reload(self, own: Reload) -> Changes:
        return await self._of_all("reload")

    async def preview(self, own: Reload) -> Changes:
        return await self._of_all("preview")

    async def _of_all(self, name: str) -> Changes:
        try:
            reloaded = decode(await self._channel.ask(name), Reloaded)
        except ChannelClosed:
            reloaded = Reloaded(None, [], stops=True)
        if reloaded.changes is not None:
            return reloaded.changes
        if reloaded.stops:
            raise Overloaded("This server is shutting down. Try again shortly.", retry_after=1)
        raise ConfigurationError(reloaded.problems)
