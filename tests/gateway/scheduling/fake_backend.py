"""A backend that only has a state: what chooses among backends never generates."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Set
from typing import Any

from reverie.backends.base import Health, Take
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.request import GenerateRequest
from reverie.tasks import R, TaskRequest


def slot_request(
    tokens: int = 0,
    excluded: Set[str] = frozenset(),
    failed_on: Set[str] = frozenset(),
    **more: Any,
) -> SlotRequest:
    return SlotRequest(tokens, excluded=frozenset(excluded), failed_on=frozenset(failed_on), **more)


class FakeBackend:
    """A backend in whatever state a test puts it."""

    kind = "generic"
    url = ""
    recovers = False
    can_continue = False
    can_count = False

    def __init__(
        self,
        name: str,
        slots: int = 1,
        *,
        ready: bool = True,
        capacity: int | None = None,
        weight: float = 1.0,
    ) -> None:
        self.capacity = capacity
        self.context: int | None = None
        self.name = name
        self.slots = slots
        self.weight = weight
        self.ready = ready
        self.failure: str | None = None
        self.health: Health | None = None
        self.wanted_probes = 0

    @property
    def checked_by(self) -> Hashable:
        return self.name

    def check(self, request: GenerateRequest) -> None: ...

    def can_run(self, request: TaskRequest[Any]) -> bool:
        return True

    async def run(self, request: TaskRequest[R]) -> R:
        raise NotImplementedError

    def set_timeouts(self, *, first_token: float, stall: float) -> None: ...

    async def count_prompt(self, request: GenerateRequest) -> int | None:
        return None

    def probe_soon(self) -> None:
        self.wanted_probes += 1

    async def generate(self, request: GenerateRequest, take: Take) -> None:
        raise NotImplementedError

    async def start(self, on_change: Callable[[], None]) -> None: ...

    async def stop(self) -> None: ...
