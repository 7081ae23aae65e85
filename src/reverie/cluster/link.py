"""A gateway's link to its cluster: what it is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from reverie.cluster.messages import Loads, Report, View, Wanted


class Link(Protocol):
    """A gateway's link to its cluster. ``gateway/serving`` knows this; ``ChildLink`` is the one."""

    gateway: str
    """This gateway's name in its reports."""
    view: View | None
    """The latest that the manager told; None before the first."""
    loads: Loads | None
    """What the other gateways do: the latest answer to a report."""
    connected: bool
    """True while the manager answers."""
    why: str
    """Why it doesn't, as a sentence for the operator; empty while it does."""

    async def start(self, on_change: Callable[[], None]) -> None:
        """Connect, and stay connected; doesn't wait for it.

        ``on_change`` is called, in the event loop, whenever ``view``, ``loads`` or ``connected``
        changed.
        """

    def deploy(self, models: Sequence[Wanted]) -> None:
        """Tell what the configuration asks for; also whenever another manager takes over."""

    def report(self, report: Report) -> None:
        """Tell what runs and waits here. Lost while there is no connection."""

    async def stop(self) -> None:
        """Let go of the cluster, whose engines run on. Idempotent."""
