"""Reads the configuration again and puts it in force, while requests run."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

from reverie import log
from reverie.errors import ConfigurationError, ModelError, Overloaded
from reverie.gateway.auth import Authenticator, static_keys
from reverie.gateway.changes import Changes, applicable, compare
from reverie.gateway.house import House
from reverie.http.edge import require_keys
from reverie.settings import NO_STORE, Settings
from reverie.store.engine import parse_url

logger = logging.getLogger("reverie")


class Reloader:
    """Reloads one at a time.

    Args:
        read: gives the configuration as it is written now.
        environ: holds the static keys.
    """

    def __init__(
        self,
        house: House,
        keys: Authenticator,
        read: Callable[[], Settings],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._house = house
        self._keys = keys
        self._read = read
        self._environ = environ
        self._one = asyncio.Lock()
        self._closed = False

    async def reload(self) -> Changes:
        """Read the configuration and serve what it says, or go on as before.

        Raises:
            ConfigurationError: it can't be used; nothing has changed.
            Overloaded: the server stops.
        """
        async with self._one:
            if self._closed:
                raise Overloaded("This server is shutting down.", retry_after=1)
            try:
                changes = await self._apply()
            except ConfigurationError as error:
                logger.error("not reloaded", extra=log.fields(reason="; ".join(error.problems)))
                raise
        told = {what: ",".join(keys) or None for what, keys in changes._asdict().items()}
        logger.info("reloaded", extra=log.fields(**told))
        return changes

    async def _apply(self) -> Changes:
        try:
            written = await asyncio.to_thread(self._read)
            static = await asyncio.to_thread(
                static_keys, self._environ, written.server.api_keys_file
            )
        except ModelError as error:  # of a reference on the command line
            raise ConfigurationError([str(error)]) from None
        if written.store.url != NO_STORE:
            parse_url(written.store.url)  # the next start would fail
        before = self._house.settings
        wanted = applicable(before, written)
        require_keys(wanted.server, keyless=self._keys.open_with(static))
        await self._house.change(wanted)
        self._keys.replace_static(static)
        if wanted.server.log_level != before.server.log_level:
            log.set_level(wanted.server.log_level)
        return compare(before, written)

    async def close(self) -> None:
        """Let the reload that runs end, and none begin any more. Idempotent."""
        async with self._one:
            self._closed = True
