"""What a request asks its model's pool for, and the slot that it is lent."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from reverie.errors import BackendError, ReverieError
from reverie.gateway.scheduling.backend_state import BackendState, Ticket

_MAX_CLIENT_BLOCKED = 0.25
"""The largest part of an answer's time that its client may take up, if the answer is to tell how
fast the backend is."""


class SlotRequest(NamedTuple):
    """A slot on a backend."""

    tokens: int = 0
    """What the request may come to, prompt and answer."""
    key: str = ""
    """Who sends it. Keys that wait share the backends' tokens by ``weight``, which is 1 or more."""
    weight: int = 1
    affinity: bytes | None = None
    """The same for all turns of a conversation, which go to one backend as far as possible.
    None: it goes anywhere."""
    excluded: frozenset[str] = frozenset()
    """Names of backends that it must not go to."""
    failed_on: frozenset[str] = frozenset()
    """Names of backends that have just failed it."""
    resuming: bool = False
    """Its client has a part of the answer. It waits until its own deadline, and gives backends
    that have just failed time to recover."""
    follows: bool = False
    """Another generation of its request has begun, so that it had its turn: it waits until its own
    deadline, and finds room in the queue."""
    alone: bool = False
    """It runs beside no other request: beside others it came to more than the engine's memory."""

    @property
    def is_retry(self) -> bool:
        """True if a backend has failed it, after its turn had come."""
        return bool(self.failed_on)

    @property
    def rank(self) -> int:
        """0: its client has a part of the answer. 1: it had its turn before. 2: it is new."""
        return 0 if self.resuming else 1 if self.had_its_turn else 2

    @property
    def had_its_turn(self) -> bool:
        return self.is_retry or self.follows

    @property
    def route(self) -> SlotRequest:
        """The request without its sender, size and affinity. All that have the same route may go
        to the same backends."""
        return self._replace(tokens=0, key="", weight=1, affinity=None)


class Lease:
    """One slot on one backend, and room for some tokens. Leaving its context gives both back.

    Its holder reports how the backend does: ``on_batch`` for each piece of the answer, then
    ``succeeded`` or ``failed``. Without either, as when the client goes away, nothing is learned.

    ``position`` is where its request entered the queue: 1 was next, 0 never waited.
    """

    def __init__(
        self,
        state: BackendState,
        tokens: int,
        position: int,
        *,
        alone: bool = False,
        clock: Callable[[], float],
        give_back: Callable[[BackendState, Ticket], None],
        on_resize: Callable[[BackendState, Ticket, int], None],
    ) -> None:
        self._state = state
        self._clock = clock
        self._give_back = give_back
        self._on_resize = on_resize
        self._ticket = state.take(tokens, alone=alone)
        self._granted_at = clock()
        self._first_token_at: float | None = None
        self._reported = False
        self._released = False
        self.backend = state.backend
        self.position = position

    def on_batch(self) -> None:
        """Note that a piece of the answer came."""
        if self._first_token_at is not None:
            self._state.on_output()
        elif not self._reported:
            self._first_token_at = self._clock()
            self._state.on_first_token(self._ticket)

    def resize(self, tokens: int) -> None:
        """Note what the request may really come to, once its engine has told the prompt's size."""
        if not self._released and tokens != self._ticket.tokens:
            self._on_resize(self._state, self._ticket, tokens)

    def succeeded(self, tokens: int = 0, client_blocked: float = 0.0) -> None:
        """Note that the answer is complete.

        Args:
            tokens: how many came, the first piece included.
            client_blocked: seconds of it in which the backend had to wait for a slow client.
        """
        if self._reported:
            return
        self._reported = True
        if self._first_token_at is not None:
            now = self._clock()
            took = now - self._first_token_at
            measurable = tokens > 1 and client_blocked <= _MAX_CLIENT_BLOCKED * took
            per_token = took / (tokens - 1) if measurable else None
            self._state.speed.add(now, self._first_token_at - self._granted_at, per_token)
        self._state.succeeded(self._ticket)

    def failed(self, error: ReverieError, *, counts: bool = True) -> None:
        """Note what ended the request early, whoever is at fault.

        Args:
            counts: False leaves a backend's failure uncounted, until ``count_failure``.
        """
        if not self._reported:
            self._reported = True
            self._state.failed(self._ticket, error, counts=counts)

    def count_failure(self, error: BackendError) -> None:
        """Count a failure that was left uncounted. The slot may have been given back."""
        self._state.count_failure(self._ticket, error)

    def release(self) -> None:
        """Give the slot back. Idempotent."""
        if not self._released:
            self._released = self._reported = True
            self._give_back(self._state, self._ticket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
