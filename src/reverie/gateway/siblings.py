"""The other processes that serve beside this one, as its routes see them. Alone, there are none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from reverie.gateway.serving.config_diff import Changes

Reload: TypeAlias = Callable[[], Awaitable[Changes]]
Answer: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""Answers one kind of question that another process asks."""


class Siblings:
    """The siblings of a process that serves alone."""

    async def ask(self, name: str, body: bytes = b"") -> list[bytes]:
        """What each of them answers to a question. One that doesn't answer in time is left out."""
        return []

    async def set_draining(self, model: str, backend: str, draining: bool) -> None:
        """Have them keep requests from a backend, or send them there again. When this returns they
        do, but for those that don't answer in time."""

    async def reload(self, own: Reload) -> Changes:
        """Reload the configuration of them all.

        Args:
            own: reloads that of a process which is alone.

        Raises:
            ConfigurationError, Overloaded: nothing has changed.
        """
        return await own()

    async def preview(self, own: Reload) -> Changes:
        """What ``reload`` would change.

        Raises:
            ConfigurationError, Overloaded
        """
        return await own()


ALONE = Siblings()
