"""The requests that a scripted engine has received and how each of them ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

Outcome: TypeAlias = Literal["running", "completed", "cancelled", "died", "refused"]


@dataclass(slots=True, eq=False)
class RecordedRequest:
    """One request for a generation."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    """Empty if it was no JSON object."""
    connection: int
    """The number of its connection; the first is 1."""
    outcome: Outcome = "running"
    """``completed``; ``cancelled``: the client left before the last token; ``died``: the script
    broke the answer off, or the engine was killed; ``refused``: answered with an error."""
    sent: int = 0
    """Tokens generated so far."""
    all_tokens_sent: bool = field(default=False, repr=False)
    """A client that leaves from now on has cancelled nothing."""


class RequestRecord:
    """Counts generations, and lets tests wait for a change.

    Args:
        keep: whether to keep ``requests`` and ``probes``; the counters count in any case.
    """

    def __init__(self, *, keep: bool) -> None:
        self.requests: list[RecordedRequest] = []
        """Generations, in the order in which they began."""
        self.probes: list[str] = []
        """Other requests, such as ``GET /health``."""
        self.generations = 0
        self.in_flight = 0
        self.completed = 0
        self.cancelled = 0
        self.died = 0
        self.refused = 0
        self._keep = keep
        self._waiters: dict[asyncio.Future[None], Callable[[Any], object]] = {}

    async def wait_for(self, condition: Callable[[Self], object], timeout: float = 5.0) -> None:
        """Wait until ``condition`` holds for this engine. It is checked now and at each change.

        Raises:
            TimeoutError: it didn't come to hold; the message says what happened instead.
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
        last = [f"{request.outcome} after {request.sent}" for request in self.requests[-8:]]
        return f"<{type(self).__name__} {counts}, last: {last}>"

    def _changed(self) -> None:
        for waiter, condition in tuple(self._waiters.items()):
            if waiter.done():
                continue
            try:
                if condition(self):
                    waiter.set_result(None)
            except Exception as error:  # raised by the condition, so it goes to its author
                waiter.set_exception(error)

    def _record_probe(self, probe: str) -> None:
        if self._keep:
            self.probes.append(probe)
        self._changed()

    def _begin(self, request: RecordedRequest) -> None:
        if self._keep:
            self.requests.append(request)
        self.generations += 1
        self.in_flight += 1
        self._changed()

    def _end(self, request: RecordedRequest, outcome: Outcome) -> None:
        """Record how a generation ended. Only the first call for a request counts."""
        if request.outcome != "running":
            return
        request.outcome = outcome
        self.in_flight -= 1
        setattr(self, outcome, getattr(self, outcome) + 1)
        self._changed()
