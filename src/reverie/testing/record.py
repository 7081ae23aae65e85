"""What an engine has been asked and how it went: the part of it that tests look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

Outcome: TypeAlias = Literal["running", "completed", "cancelled", "died", "refused"]


@dataclass(slots=True, eq=False)
class Recorded:
    """One generation that the engine was asked for."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    """Empty where it was no JSON object."""
    connection: int
    """Which connection it came on; the first is 1."""
    outcome: Outcome = "running"
    """``completed``; ``cancelled``: the client left before the last token; ``died``: the script
    broke it off, or the engine was killed; ``refused``: it was answered with an error."""
    sent: int = 0
    """Tokens made so far."""
    generated: bool = field(default=False, repr=False)
    """Whether the answer only lacks its end: a client that leaves now has cancelled nothing."""


class EngineLog:
    """Counters of generations, and waiting for them to change.

    Args:
        keep: whether to keep ``requests`` and ``probes``; the counters count in any case.
    """

    def __init__(self, *, keep: bool) -> None:
        self.requests: list[Recorded] = []
        """Generations, in the order in which they began."""
        self.probes: list[str] = []
        """Other requests, as ``GET /health``."""
        self.generations = 0
        self.in_flight = 0
        self.completed = 0
        self.cancelled = 0
        self.died = 0
        self.refused = 0
        self._keep = keep
        self._waiters: dict[asyncio.Future[None], Callable[[Any], object]] = {}

    async def wait_for(self, condition: Callable[[Self], object], timeout: float = 5.0) -> None:
        """Wait until ``condition`` holds of this engine. It is asked now, then at each change.

        Raises:
            TimeoutError: it didn't come to hold; the message says what did happen.
        """
        if condition(self):
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = condition
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            raise TimeoutError(f"not within {timeout:g} s: {self!r}") from None
        finally:
            self._waiters.pop(waiter, None)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{name}={getattr(self, name)}"
            for name in ("in_flight", "completed", "cancelled", "died", "refused")
        )
        last = [f"{recorded.outcome} after {recorded.sent}" for recorded in self.requests[-8:]]
        return f"<{type(self).__name__} {counts}, last: {last}>"

    def _changed(self) -> None:
        for waiter, condition in tuple(self._waiters.items()):
            if waiter.done():
                continue
            try:
                if condition(self):
                    waiter.set_result(None)
            except Exception as error:  # the condition's own: it belongs to who waits
                waiter.set_exception(error)

    def _note_probe(self, probe: str) -> None:
        if self._keep:
            self.probes.append(probe)
        self._changed()

    def _begin(self, recorded: Recorded) -> None:
        if self._keep:
            self.requests.append(recorded)
        self.generations += 1
        self.in_flight += 1
        self._changed()

    def _end(self, recorded: Recorded, outcome: Outcome) -> None:
        """The one place where a generation ends; the first call counts."""
        if recorded.outcome != "running":
            return
        recorded.outcome = outcome
        self.in_flight -= 1
        if outcome == "completed":
            self.completed += 1
        elif outcome == "cancelled":
            self.cancelled += 1
        elif outcome == "died":
            self.died += 1
        else:
            self.refused += 1
        self._changed()
