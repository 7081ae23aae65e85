"""What a generation says, for any number of readers, each from its own event and at its own pace.

Rule 1: a reader holds no more than a piece of an answer, however much of it there is.

Rule 2: a transcript holds no more than ``MAX_TRANSCRIPT``. Once it is full, what all its readers
have is dropped from its front, and the generation waits for the slowest of them. While it has no
reader, nothing is dropped: one may come back for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator

from reverie.errors import AnswerNotKept, RateStatus, ReverieError, StreamNotResumable
from reverie.http.frames import EVENT_END, Frame

MAX_TRANSCRIPT = 16 * 1024 * 1024
"""Bytes of a running answer that are held for its readers."""
_SPARE = MAX_TRANSCRIPT // 16
"""Bytes that are dropped in one go where they can be, so that not each event moves all others."""
_PIECE = 32 * 1024
"""Bytes of whole events that a reader is given in one write, or a little more."""


class KeptAnswer:
    """A complete answer out of the store, which all share who are given it at a time."""

    def __init__(self, row: int, fingerprint: bytes, body: bytes) -> None:
        self.row = row
        """Of the ledger: tells it from a later answer in its place."""
        self.fingerprint = fingerprint
        self.body = body

    def begin(self, after: int) -> int:
        """Where in the body the event begins that follows a number; 0: the first.

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
        """What a client lacks of it: one frame at least. What has no events is one frame.

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
    """What a generation has said so far."""

    def __init__(self, answer: KeptAnswer | None = None) -> None:
        self.answer = answer
        """What was said to an earlier request, and is given again."""
        self.begun = False
        """Whether it is of a generation here."""
        self.rate: RateStatus | None = None
        self.on_readers: Callable[[], None] = lambda: None
        self._base = 0
        self._dropped = 0
        """Events that were there, and are no more."""
        self._events: list[bytes] = []
        self._size = 0
        self._full = False
        self._complete = False
        self._error: ReverieError | None = None
        self._readers: dict[object, int] = {}
        """Reader → how many events it has, with those that were dropped."""
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.answer is not None or self._complete or self._error is not None

    @property
    def readers(self) -> int:
        return len(self._readers)

    def begin(self, rate: RateStatus | None, base: int) -> None:
        """Note that it is generated here, and now; events are numbered from ``base`` + 1 on."""
        self.begun, self.rate, self._base = True, rate, base
        self._wake()

    async def append(self, frame: Frame) -> None:
        """Add what was said next, as soon as there is room for it.

        What is larger than all the room there is (one JSON body) is taken all the same.
        """
        while not self._make_room(len(frame.data)):
            self._full = True
            await self._changed.wait()
        self._full = False
        parts = frame.data.split(EVENT_END)
        self._events += [part + EVENT_END for part in parts[:-1]]
        if parts[-1]:
            self._events.append(parts[-1])  # one JSON body
        self._size += len(frame.data)
        self._complete = frame.last
        self._wake()

    def give_again(self, answer: KeptAnswer) -> None:
        """Note that it was said to an earlier request."""
        self.answer = answer
        self._wake()

    def fail(self, error: ReverieError) -> None:
        """End it where it is."""
        if not self.ended:
            self._error = error
            self._wake()

    async def read(self, after: int) -> AsyncGenerator[Frame, None]:
        """What was said after that event, and what is said from now on: one frame at least.

        Raises:
            StreamNotResumable: there is no such event.
            AnswerNotKept: it is wanted from its beginning, which was dropped.
            ReverieError: as the generation ended.
        """
        reader = object()
        of_another = after > 0 and not self.begun
        has = self._readers[reader] = self._place(after) if self.begun else 0
        self.on_readers()
        try:
            while not (self.begun or self.ended):
                await self._changed.wait()
            if self.answer is not None:
                for frame in self.answer.frames(after):
                    yield frame
                return
            if of_another and self.begun:  # which was not gone on with, but begun anew
                raise StreamNotResumable
            said_all = False
            while not said_all:
                if has < self._said or self._complete:
                    data, has = self._some(has)
                    self._readers[reader] = has
                    if self._full:
                        self._wake()
                    said_all = self._complete and has == self._said
                    yield Frame(data, last=said_all)
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
    def _said(self) -> int:
        """How many events there were."""
        return self._dropped + len(self._events)

    def _place(self, after: int) -> int:
        """How many events a client has whose last one has this number."""
        if not after:
            if self._dropped:
                raise AnswerNotKept
            return 0
        has = after - self._base
        if not max(1, self._dropped) <= has <= self._said:
            raise StreamNotResumable
        return has

    def _some(self, has: int) -> tuple[bytes, int]:
        """The next events, as many as are written at once; how many a reader has with them."""
        begin = end = has - self._dropped
        size = 0
        while end < len(self._events) and size < _PIECE:
            size += len(self._events[end])
            end += 1
        return b"".join(self._events[begin:end]), self._dropped + end

    def _make_room(self, size: int) -> bool:
        """Drop what all readers have, if that must be; say whether so many bytes have room."""
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
