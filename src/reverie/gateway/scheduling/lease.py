"""A slot on a backend, lent to one request, and what that request has to say of the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from reverie.errors import ReverieError
from reverie.gateway.scheduling.backend_state import BackendState

_MOST_CLIENT_BLOCKED = 0.25
"""The part of an answer's time that its client may take up, for it to tell a backend's speed."""


class Lease:
    """One slot on one backend, and room for some tokens. Leaving its context gives both back.

    Its holder says how the backend fared: ``on_batch`` for each piece, then ``succeeded`` or
    ``failed``. Left without a word, as by a client that went away, it says nothing.

    ``position`` is where its request entered the queue: 1 was next, 0 never waited.
    """

    def __init__(
        self,
        member: BackendState,
        tokens: int,
        position: int,
        *,
        clock: Callable[[], float],
        give_back: Callable[[BackendState, int], None],
    ) -> None:
        self._member = member
        self._tokens = tokens
        self._clock = clock
        self._give_back = give_back
        self._ticket = member.breaker.begin()
        self._granted = clock()
        self._started: float | None = None
        self._judged = False
        self._released = False
        self.backend = member.backend
        self.position = position

    def on_batch(self) -> None:
        """Note that a piece of the answer came."""
        if self._started is not None:
            self._member.worked()
        elif not self._judged:
            self._started = self._clock()
            self._member.started(self._ticket)

    def succeeded(self, tokens: int = 0, client_blocked: float = 0.0) -> None:
        """Note that the answer came to its end, with so many tokens since the first piece.

        Args:
            held_up: seconds of it in which nobody listened to the backend: its client read slowly.
        """
        if self._judged:
            return
        self._judged = True
        if self._started is not None:
            now = self._clock()
            took = now - self._started
            telling = tokens > 1 and client_blocked <= _MOST_CLIENT_BLOCKED * took
            pace = took / (tokens - 1) if telling else None
            self._member.speed.measured(now, self._started - self._granted, pace)
        self._member.succeeded(self._ticket)

    def failed(self, error: ReverieError) -> None:
        """Note what ended the request early, whosever fault that is."""
        if not self._judged:
            self._judged = True
            self._member.failed(self._ticket, error)

    def release(self) -> None:
        """Give the slot back. Idempotent."""
        if not self._released:
            self._released = self._judged = True
            self._member.breaker.left(self._ticket)
            self._give_back(self._member, self._tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
