"""What the manager needs of whatever runs engines on machines: Ray, or a test's stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from reverie.cluster.messages import EngineInfo, EngineSpec, Machine


class EngineDied(Exception):
    """The engine's process, or its machine, is gone. The text says which, for the operator."""


class LaunchFailed(Exception):
    """The engine can't be started there. The text says why, for the operator."""


class Handle(Protocol):
    """A running engine's process, which may be on another machine."""

    async def watch(self, seen: int) -> EngineInfo:
        """What the engine tells of itself, as soon as its ``revision`` is above ``seen``; after
        half a minute in any case.

        Raises:
            EngineDied
        """

    async def stop(self) -> None:
        """End it, and return once it is gone. It has no requests any more, or is given up.
        Never raises; idempotent."""


class Adopted(NamedTuple):
    """An engine that runs already."""

    name: str
    uid: str
    spec: EngineSpec
    machine: str
    """An address."""
    handle: Handle


class Launcher(Protocol):
    """Runs engines on machines. Its methods raise nothing but what they name, except for ``adopt``
    and ``recall``: a manager can't begin while it doesn't know, and asks again."""

    async def machines(self) -> Sequence[Machine]:
        """All machines, with what is free on each. ``draining`` is the manager's own."""

    async def start(self, name: str, uid: str, spec: EngineSpec, machine: Machine) -> Handle:
        """Start an engine; returns once its process runs, before it is ready.

        It is cancelled if that takes a minute, and leaves no engine behind then.

        Raises:
            LaunchFailed
        """

    async def adopt(self) -> Sequence[Adopted]:
        """The engines that run already, when the manager begins.

        Those that don't answer within seconds are left out, and ended."""

    async def remember(self, key: str, value: bytes) -> None:
        """Keep a value for the next manager, if this cluster can."""

    async def recall(self, key: str) -> bytes | None:
        """What was kept."""
