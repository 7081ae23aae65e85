"""Reads the configuration again and applies it while requests run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from reverie import log
from reverie.addresses import own_backends, require_keys
from reverie.correlation import request_id
from reverie.errors import ConfigurationError, ModelError, Overloaded
from reverie.gateway.accounts.authentication import Authenticator, static_keys
from reverie.gateway.serving.config_diff import Changes, applicable, compare
from reverie.gateway.serving.registry import ModelRegistry
from reverie.settings import DEFAULT_MODEL, NO_STORE, Settings
from reverie.store.database.engine import parse_url
from reverie.threads import run_in_daemon_thread

logger = logging.getLogger("reverie")

_READ_TIMEOUT = 10.0
"""Seconds to read the files, which may be on another machine."""
_CHECK_TIMEOUT = 60.0
"""Seconds to check the models' files and to start their backends."""
_CLOSE_TIMEOUT = 2.0
"""Seconds that a stop of the server waits for a running reload."""


class Reloader:
    """Reloads the configuration, one reload at a time.

    Args:
        read: returns the configuration as it is written now.
        environ: holds the static keys.
        then: called with each configuration that is in force, before its reload is over.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        keys: Authenticator,
        read: Callable[[], Settings],
        environ: Mapping[str, str] = os.environ,
        *,
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._then = then
        self._registry = registry
        self._keys = keys
        self._read = read
        self._environ = environ
        self._one = asyncio.Lock()
        self._working: asyncio.Task[Changes] | None = None
        self._closed = False

    async def reload(self) -> Changes:
        """Read the configuration and apply it, or change nothing.

        Raises:
            ConfigurationError: it can't be used; nothing has changed.
            Overloaded: the server is stopping.
        """
        async with self._one:
            try:
                changes = await self._unless_closed(self._apply)
            except ConfigurationError as error:
                self._log_failure("; ".join(error.problems))
                raise
            except Overloaded:
                self._log_failure("the server is stopping")
                raise
        logger.info(
            "reloaded",
            extra=log.fields(
                id=request_id(),
                added=",".join(changes.added) or None,
                removed=",".join(changes.removed) or None,
                changed=",".join(changes.changed) or None,
                needs_restart=",".join(changes.needs_restart) or None,
            ),
        )
        return changes

    def _log_failure(self, reason: str) -> None:
        logger.error("not reloaded", extra=log.fields(id=request_id(), reason=reason))

    async def preview(self) -> Changes:
        """Read the configuration and check it, without changing or starting anything.

        Raises:
            ConfigurationError: it can't be used.
            Overloaded: the server is stopping.
        """
        async with self._one:
            return await self._unless_closed(self._check)

    async def _unless_closed(self, work: Callable[[], Coroutine[Any, Any, Changes]]) -> Changes:
        """Do it, in a task that ``close`` can cancel.

        Raises:
            ConfigurationError
            Overloaded: the server is stopping.
        """
        if self._closed:
            raise _server_stops()
        self._working = asyncio.create_task(work())
        try:
            return await self._working
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise  # it was the caller who was cancelled
            raise _server_stops() from None

    async def _check(self) -> Changes:
        written, wanted, _ = await self._read_wanted()
        async with _within_check_timeout():
            await self._registry.check(wanted)
        return compare(self._registry.settings, written)

    async def _apply(self) -> Changes:
        before = self._registry.settings
        written, wanted, static = await self._read_wanted()
        async with _within_check_timeout():
            await self._registry.apply(wanted)
        self._keys.replace_static(static)
        if self._then is not None:
            await self._then()
        warn_of_own_backends(wanted)
        if wanted.server.log_level != before.server.log_level:
            log.set_level(wanted.server.log_level)
        return compare(before, written)

    async def _read_wanted(self) -> tuple[Settings, Settings, list[tuple[bytes, str]]]:
        """The configuration as it is written, what of it can be put in force, and the static keys.

        Raises:
            ConfigurationError: it can't be used, as far as is known without its models.
        """
        written, static = await self._read_again()
        before = self._registry.settings
        if before.file is not None and written.file is None:
            raise ConfigurationError([_empty_file_problem(before.file)])
        if written.store.url != NO_STORE:
            parse_url(written.store.url)  # or the next start would fail
        wanted = applicable(before, written)
        require_keys(wanted.server, keyless=self._keys.open_with(static))
        return written, wanted, static

    async def _read_again(self) -> tuple[Settings, list[tuple[bytes, str]]]:
        """Read the configuration and the static keys.

        Raises:
            ConfigurationError
        """

        def read() -> tuple[Settings, list[tuple[bytes, str]]]:
            written = self._read()
            return written, static_keys(self._environ, written.server.api_keys_file, reloading=True)

        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                return await run_in_daemon_thread(read)
        except TimeoutError:
            raise ConfigurationError(
                [f"the configuration could not be read within {_READ_TIMEOUT:g} s"]
            ) from None
        except ModelError as error:  # of a reference on the command line
            raise ConfigurationError([str(error)]) from None

    async def close(self) -> None:
        """End a running reload or preview within seconds, and let none begin. Idempotent."""
        self._closed = True
        if self._working is not None:
            await asyncio.wait({self._working}, timeout=_CLOSE_TIMEOUT)
            self._working.cancel()
            await asyncio.wait({self._working}, timeout=_CLOSE_TIMEOUT)


@contextlib.asynccontextmanager
async def _within_check_timeout() -> AsyncGenerator[None, None]:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT):
            yield
    except TimeoutError:
        raise ConfigurationError(
            [f"the models could not be checked within {_CHECK_TIMEOUT:g} s"]
        ) from None


def warn_of_own_backends(settings: Settings) -> None:
    """Log a warning for each backend that is this server itself."""
    for sentence in own_backends(settings):
        logger.warning("a backend is this server itself", extra=log.fields(reason=sentence))


def _server_stops() -> Overloaded:
    return Overloaded("This server is shutting down. Try again shortly.", retry_after=1)


def _empty_file_problem(file: Path) -> str:
    """A file is empty for a moment while an editor saves it; hardly anybody means it to be."""
    return (
        f"{file}: holds no key any more. If the default model is meant, write that: [[models]], "
        f'name = "{DEFAULT_MODEL}", source = "{DEFAULT_MODEL}"'
    )
