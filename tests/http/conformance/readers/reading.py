"""The common form of an answer, and what the readers of all dialects share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

MAX_LINE = 64 * 1024


@dataclass
class Call:
    """A tool call; ``arguments`` is JSON text, as far as the model wrote it."""

    id: str
    name: str
    arguments: str = ""

    @property
    def value(self) -> Any:
        """The arguments as an object, as dialects without a text for them say it."""
        try:
            value = json.loads(self.arguments)
        except ValueError:
            return {"INVALID_JSON": self.arguments} if self.arguments.strip() else {}
        return value if isinstance(value, dict) else {"INVALID_JSON": self.arguments}


@dataclass
class Choice:
    """One answer. ``finish`` is OpenAI's word that is nearest to the dialect's own."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str | None = None
    stop: str | None = None
    tokens: list[str] = field(default_factory=list)
    """Those that have a log-probability."""

    @property
    def said(self) -> tuple[Any, ...]:
        """All that is comparable between a stream, an answer in one piece and a script."""
        calls = [(call.id, call.name, call.value) for call in self.calls]
        return (
            self.text,
            self.reasoning,
            self.refusal,
            calls,
            self.finish,
            self.stop,
            self.tokens,
        )


class Used(NamedTuple):
    """A usage; ``cached`` is None where the dialect doesn't tell."""

    prompt: int
    completion: int
    cached: int | None


@dataclass
class Reading:
    """What was read. ``problems`` are the rules of the dialect's grammar that were broken."""

    choices: list[Choice] = field(default_factory=lambda: [Choice()])
    usage: Used | None = None
    error: str | None = None
    complete: bool = False
    """The dialect's own sign of a whole answer has come."""
    pings: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def said(self) -> list[tuple[Any, ...]]:
        return [choice.said for choice in self.choices]

    @property
    def text(self) -> str:
        return self.choices[0].text


class Broken(Exception):
    """A rule after which nothing more can be made of the stream."""


class Event(NamedTuple):
    number: int | None
    """Its ``id:``."""
    name: str | None
    """Its ``event:``."""
    data: str


class Reader(ABC):
    """Reads one answer, streamed or in one piece, and notes each rule that it breaks."""

    numbered: ClassVar[bool] = True
    named: ClassVar[bool] = False

    def __init__(self, choices: int = 1) -> None:
        self.reading = Reading([Choice() for _ in range(choices)])
        self.ended = False
        self._numbers: list[int | None] = []

    def stream(self, written: bytes) -> Reading:
        """Read a whole stream."""
        try:
            for event in self.events(written):
                self.expect(not self.ended, f"this comes after the end: {event}")
                self.event(event)
                if self.reading.error is None:
                    self._numbers.append(event.number)
                else:
                    self.expect(event.number is None, "an error has a number")
            self._check_numbers()
            ends = self.reading.complete, self.reading.error is not None
            self.expect(ends in ((True, False), (False, True)), "it has no end, or two")
        except (Broken, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            self.reading.problems.append(repr(error))
        return self.reading

    def whole(self, written: bytes) -> Reading:
        """Read an answer in one piece."""
        try:
            self.answer(parse(written.decode()))
            self.reading.complete = True
        except (Broken, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            self.reading.problems.append(repr(error))
        return self.reading

    @abstractmethod
    def event(self, event: Event) -> None:
        """Take the next event of a stream."""

    @abstractmethod
    def answer(self, body: Any) -> None:
        """Take an answer in one piece."""

    def repeats(self, name: str | None) -> bool:
        """True of an event that says once more what came in pieces, however long that is."""
        return False

    def expect(self, holds: bool, rule: str) -> None:
        if not holds:
            self.reading.problems.append(rule)

    def keys(self, of: Mapping[str, Any], must: Collection[str], may: Collection[str] = ()) -> None:
        """Expect these fields, and no others."""
        got = set(of)
        if not set(must) <= got <= {*must, *may}:
            raise Broken(f"fields {sorted(got)}, not {sorted(must)}")

    def events(self, written: bytes) -> Iterator[Event]:
        """The server-sent events of a stream, without its comments."""
        self.expect(written.endswith(b"\n\n"), "the last event is cut")
        for event in written.decode().split("\n\n")[:-1]:
            lines = event.split("\n")
            self.expect(event.splitlines() == lines, "a line holds what some take for a line break")
            if event == ": ping":
                self.reading.pings += 1
                continue
            fields = [line.partition(": ") for line in lines]
            number = int(fields.pop(0)[2]) if fields[0][0] == "id" else None
            name = fields.pop(0)[2] if self.named and fields[0][0] == "event" else None
            self.expect(self.named is (name is not None), "an event's name is missing")
            if [one for one, _, _ in fields] != ["data"]:
                raise Broken(f"no event: {event}")
            longest = max(len(line.encode()) for line in lines)
            self.expect(longest <= MAX_LINE or self.repeats(name), f"a line is too long: {name}")
            yield Event(number, name, fields[0][2])

    def _check_numbers(self) -> None:
        """Numbers are on every event, each one more than that before, or on none."""
        numbers = [number for number in self._numbers if number is not None]
        if numbers:
            steps = list(range(numbers[0], numbers[0] + len(self._numbers)))
            self.expect(numbers == steps, f"numbers with a gap: {self._numbers}")


def parse(text: str) -> Any:
    """JSON of which no object has a name twice."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise Broken(f"a field is there twice: {items}")
        return dict(items)

    return json.loads(text, object_pairs_hook=pairs)
