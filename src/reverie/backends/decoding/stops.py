"""Finds stop strings in an answer, for engines that don't tell which of them ended it.

Such an engine isn't told of the stop strings: the answer ends here, at the first of them, and what
may be the beginning of one is held back until more is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from reverie.backends.base import Enough, Take
from reverie.events import Delta, Event, Finish, Prompt, Usage
from reverie.pending import Pending


class StopWatch:
    """Follows the batches of one generation.

    ``met`` is true once a stop string has ended it: nothing more is taken from the engine then.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.met = False
        self._stops = stops
        self._longest = max(map(len, stops))
        self._held: list[Delta] = []
        self._text = ""  # of what is held
        self._tokens = 0
        self._prompt: Prompt | None = None

    def watching(self, take: Take) -> Take:
        """What takes batches in place of ``take``, and ends the answer at a stop string."""

        def take_watched(batch: list[Event]) -> Pending:
            events = self.accept(batch)
            pending = take(events) if events else None
            if self.met:
                raise Enough
            return pending

        return take_watched

    def accept(self, batch: list[Event]) -> list[Event]:
        """The events that may be sent on."""
        passed: list[Event] = []
        for event in batch:
            if isinstance(event, Delta):
                self._tokens += event.tokens
                passed += self._watch(event)
                if self.met:
                    break
            elif isinstance(event, Prompt):
                self._prompt = event
                passed.append(event)
            else:
                passed += self._release(len(self._text))
                passed.append(event)
        return passed

    def _watch(self, delta: Delta) -> list[Event]:
        if not delta.text:
            return [*self._release(len(self._text)), delta]
        self._held.append(delta)
        self._text += delta.text
        found = [
            (at, -len(stop), stop) for stop in self._stops if (at := self._text.find(stop)) >= 0
        ]
        if not found:
            return self._release(len(self._text) - self._begun())
        at, _, stop = min(found)
        passed = self._release(at)
        self.met = True
        prompt = self._prompt
        usage = Usage(
            prompt.tokens if prompt is not None else 0,
            self._tokens,
            prompt.cached_tokens if prompt is not None else 0,
            estimated=prompt is None,
        )
        return [*passed, Finish("stop", stop), usage]

    def _begun(self) -> int:
        """Characters at the end of the text that may be the beginning of a stop string."""
        for length in range(min(len(self._text), self._longest - 1), 0, -1):
            end = self._text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0

    def _release(self, characters: int) -> list[Event]:
        """The held deltas up to so many characters, of which the last may be cut."""
        released: list[Event] = []
        self._text = self._text[characters:]
        while self._held and characters >= len(self._held[0].text):
            delta = self._held.pop(0)
            characters -= len(delta.text)
            released.append(delta)
        if self._held and characters:
            first = self._held[0]
            released.append(replace(first, text=first.text[:characters], logprobs=()))
            self._held[0] = replace(first, text=first.text[characters:], tokens=0)
        return released
