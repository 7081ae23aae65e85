"""The events of one generation, for any number of readers, each at its own place and pace.

Rule 1: a reader holds one piece of the answer at a time, however long the answer is.

Rule 2: a transcript holds at most ``MAX_TRANSCRIPT``. Once it is full, the events that all readers
have are dropped from its front, and the generation waits for the slowest reader. Without a reader
nothing is dropped, since a client may come back for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial

from reverie.errors import AnswerNotKept, RateStatus, ReverieError, StreamNotResumable
from reverie.http.frames import Frame
from reverie.http.idempotency.kept_copy import EVENT_END
from reverie.pending import Pending

MAX_TRANSCRIPT = 16 * 1024 * 1024
"""Bytes of a running answer that are held for its readers."""
_SPARE = MAX_TRANSCRIPT // 16
"""Bytes that are dropped at once where possible, so that not every event moves all the others."""
_PIECE = 32 * 1024
"""Bytes of whole events that a reader gets in one write, or a little more."""


class KeptAnswer:
    """A complete answer from the store, shared by all who read it at the same time."""

    def __init__(self, row: int, fingerprint: bytes, body: bytes) -> None:
        self.row = row
        """Its row in the ledger, which tells it from a later answer under the same key."""
        self.fingerprint = fingerprint
        self.body = body

    @property
    def first_number(self) -> int:
        """The number of a stream's first event."""
        return int(self.body[len(b"id: ") : self.body.index(b"\n")])

    def begin(self, after: int) -> int:
        """The byte at which the event after number ``after`` begins; 0 for the first event.

        Raises:
            StreamNotResumable: no event has that number.
        """
        if not after:
            return 0
        line = b"id: %d\n" % after
        at = 0 if self.body.startswith(line) else self.body.find(EVENT_END + line)
        if at < 0:
            raise StreamNotResumable
        return self.body.index(EVENT_END, at + len(line)) + len(EVENT_END)

    def frames(self, after: int) -> Iterator[Frame]:
        """The events after number ``after``, as one frame at least. A JSON body is one frame.

        Raises:
            StreamNotResumable: no event has that number.
        """
        begin = self.begin(after)
        while True:
            found = self.body.find(EVENT_END, begin + _PIECE)
            end = len(self.body) if found < 0 else found + len(EVENT_END)
            last = end == len(self.body)
            yield Frame(self.body[begin:end], last, self)
            if last:
                return
            begin = end


class Transcript:
    """The events of one generation so far."""

    def __init__(self, answer: KeptAnswer | None = None) -> None:
        self.answer = answer
        """The answer of an earlier request, if that is what its readers get."""
        self.begun = False
        """True once a generation of this gateway writes it."""
        self.rate: RateStatus | None = None
        self.on_readers: Callable[[], None] = lambda: None
        self._base = 0
        self._dropped = 0
        """Events that were dropped from the front."""
        self._events: list[bytes] = []
        self._size = 0
        self._full = False
        self._complete = False
        self._error: ReverieError | None = None
        self._readers: dict[object, int] = {}
        """Reader → how many events it has, counted from the first, dropped ones included."""
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.answer is not None or self._complete or self._error is not None

    @property
    def first_number(self) -> int:
        """The number of its first event.

        Raises:
            StreamNotResumable: it has none yet.
        """
        if self.answer is not None:
            return self.answer.first_number
        if not self.begun:
            raise StreamNotResumable
        return self._base + 1

    @property
    def readers(self) -> int:
        return len(self._readers)

    def begin(self, rate: RateStatus | None, base: int) -> None:
        """Note that the generation begins; its events are numbered from ``base`` + 1."""
        self.begun, self.rate, self._base = True, rate, base
        self._wake()

    def append(self, frame: Frame) -> Pending:
        """Add the next frame, as soon as there is room for it. What is left pending waits for that.

        A frame that is larger than the whole transcript may be (one JSON body) is taken anyway.
        """
        if not self._make_room(len(frame.data)):
            return partial(self._append_later, frame)
        self._add(frame)
        return None

    async def _append_later(self, frame: Frame) -> None:
        while not self._make_room(len(frame.data)):
            self._full = True
            await self._changed.wait()
        self._full = False
        self._add(frame)

    def _add(self, frame: Frame) -> None:
        parts = frame.data.split(EVENT_END)
        self._events += [part + EVENT_END for part in parts[:-1]]
        if parts[-1]:
            self._events.append(parts[-1])  # one JSON body
        self._size += len(frame.data)
        self._complete = frame.last
        self._wake()

    def give_again(self, answer: KeptAnswer) -> None:
        """Give readers the answer of an earlier request."""
        self.answer = answer
        self._wake()

    def fail(self, error: ReverieError) -> None:
        """End it with an error, unless it has ended."""
        if not self.ended:
            self._error = error
            self._wake()

    async def read(self, after: int) -> AsyncGenerator[Frame, None]:
        """Yield the events after number ``after``, old and new: one frame at least.

        Raises:
            StreamNotResumable: no event has that number.
            AnswerNotKept: the whole answer is wanted, and its beginning was dropped.
            ReverieError: the error that the generation ended with.
        """
        reader = object()
        of_earlier = after > 0 and not self.begun
        has = self._readers[reader] = self._events_up_to(after) if self.begun else 0
        self.on_readers()
        if self._full:  # it may have all that there is, which can be dropped
            self._wake()
        try:
            while not (self.begun or self.ended):
                await self._changed.wait()
            if self.answer is not None:
                for frame in self.answer.frames(after):
                    yield frame
                return
            if of_earlier and self.begun:  # that one isn't continued: this is a new generation
                raise StreamNotResumable
            complete = False
            while not complete:
                if has < self._count or self._complete:
                    data, has = self._next_events(has)
                    self._readers[reader] = has
                    if self._full:
                        self._wake()
                    complete = self._complete and has == self._count
                    yield Frame(data, last=complete)
                elif self._error is not None:
                    raise self._error
                else:
                    await self._changed.wait()
        finally:
            del self._readers[reader]
            if self._full:
                self._wake()
            self.on_readers()

    @property
    def _count(self) -> int:
        """How many events there have been."""
        return self._dropped + len(self._events)

    def _events_up_to(self, after: int) -> int:
        """How many events a client has if the last one has this number."""
        if not after:
            if self._dropped:
                raise AnswerNotKept
            return 0
        has = after - self._base
        if not max(1, self._dropped) <= has <= self._count:
            raise StreamNotResumable
        return has

    def _next_events(self, has: int) -> tuple[bytes, int]:
        """The next events for one write, and how many the reader then has."""
        begin = end = has - self._dropped
        size = 0
        while end < len(self._events) and size < _PIECE:
            size += len(self._events[end])
            end += 1
        return b"".join(self._events[begin:end]), self._dropped + end

    def _make_room(self, size: int) -> bool:
        """Drop events that all readers have, if needed; True if ``size`` more bytes fit."""
        if self._size + size <= MAX_TRANSCRIPT:
            return True
        had = min(self._readers.values(), default=self._dropped) - self._dropped
        end = 0
        while end < had and self._size + size > MAX_TRANSCRIPT - _SPARE:
            self._size -= len(self._events[end])
            end += 1
        del self._events[:end]
        self._dropped += end
        return self._size + size <= MAX_TRANSCRIPT or not self._events

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
