"""The soak's own account of what was asked and answered, held against the ledger. No I/O.

What belongs together is a *piece of work*: all answers under one ``Idempotency-Key``, or the one
answer to a request without. It is judged once its clients are done and its rows are closed, and
then forgotten, so that the book stays small however long it is kept.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

COMPLETE = ("ok", "length")
MINUTE_MS = 60_000
_ESTIMATE = 1024
"""Tokens by which the prompt of a cancelled request, and its tools, may be guessed too high."""


class Row(NamedTuple):
    """A row of the ledger."""

    id: int
    request_id: str
    key: str
    model: str
    idempotency_key: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: int
    price_input: int
    price_cached: int
    price_output: int
    outcome: str | None
    created_at: int
    ended_at: int | None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def said(self) -> str:
        """The piece of work that it belongs to."""
        return self.idempotency_key or self.request_id


class Limits(NamedTuple):
    """What a key may use; None: as much as it likes."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget: int | None = None
    """In nano-units a day."""


@dataclass(slots=True)
class Answer:
    """What a client saw."""

    whole: bool
    refused: bool
    """It has a status other than 200."""
    delivered: int
    """Tokens that came, at least."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """As told in the usage, if that came."""


@dataclass(slots=True)
class Work:
    """A piece of work: what its clients saw, and its rows."""

    key: str
    prompt: int
    """Tokens of its prompt, and of its whole answer; None: only the engine knows."""
    completion: int | None
    retries: bool
    """It has an ``Idempotency-Key``."""
    done_at: float | None = None
    """When its clients were done with it."""
    answers: list[Answer] = field(default_factory=list)
    rows: dict[int, Row] = field(default_factory=dict)

    @contextlib.contextmanager
    def clients_there(self) -> Iterator[None]:
        """Its clients are done with it at the end of this block."""
        try:
            yield
        finally:
            self.done_at = time.monotonic()

    @property
    def unsettled(self) -> list[int]:
        """Rows that may still change: open ones, and lost ones whose settlement may turn up."""
        return [row.id for row in self.rows.values() if row.outcome in (None, "lost")]

    def differences(self) -> list[str]:
        """What the ledger says otherwise than the clients do."""
        found = []
        rows = list(self.rows.values())
        complete = [row for row in rows if row.outcome in COMPLETE]
        whole = [answer for answer in self.answers if answer.whole]
        if any(row.outcome is None for row in rows):
            found.append("its row is open")
        if len(complete) > 1:
            found.append(f"it is billed {len(complete)} times")
        if not self.retries and len(self.rows) > 1:
            found.append(f"it has {len(self.rows)} rows")
        if whole and not complete:
            outcomes = [row.outcome for row in rows]
            found.append(f"it was answered in full, and its rows are {outcomes}")
        for answer in whole if complete else ():
            found += _told_otherwise(answer, complete[0])
        if not self.retries and complete and all(answer.refused for answer in self.answers):
            found.append("it was refused, and is billed as answered")
        for row in rows:
            found += self._out_of_bounds(row)
        return found

    def _out_of_bounds(self, row: Row) -> list[str]:
        found = []
        if row.key != self.key:
            found.append(f"it is billed to {row.key}")
        completion = row.completion_tokens if self.completion is None else self.completion
        if row.completion_tokens > completion or row.prompt_tokens > self.prompt + _ESTIMATE:
            billed = f"{row.prompt_tokens}+{row.completion_tokens}"
            found.append(f"{billed} tokens are billed, of which {self.prompt}+{completion} can be")
        if row.outcome in COMPLETE and row.completion_tokens != completion:
            whole = f"an answer of {completion} tokens"
            found.append(f"{whole} is billed as one of {row.completion_tokens}")
        delivered = max((answer.delivered for answer in self.answers), default=0)
        counts_all = row.outcome in ("cancelled", "failed") and not self.retries
        if counts_all and row.completion_tokens < delivered:
            found.append(f"{delivered} tokens came, and {row.completion_tokens} are counted")
        price = 0 if row.outcome in ("failed", "lost", None) else _price(row)
        if row.cost != price:
            found.append(f"it costs {row.cost}, and its prices make that {price}")
        return found


def _told_otherwise(answer: Answer, row: Row) -> list[str]:
    found = []
    for name, told, written in (
        ("prompt", answer.prompt_tokens, row.prompt_tokens),
        ("completion", answer.completion_tokens, row.completion_tokens),
    ):
        if told is not None and told != written:
            found.append(f"{told} {name} tokens were told, and {written} are billed")
    return found


def _price(row: Row) -> int:
    return (
        (row.prompt_tokens - row.cached_tokens) * row.price_input
        + row.cached_tokens * row.price_cached
        + row.completion_tokens * row.price_output
    )


class Sums(NamedTuple):
    """What a key's whole answers came to: as clients were told, and as the ledger says."""

    answers: int
    told: int
    billed: int


class Book:
    """All pieces of work that aren't judged yet, and what the judged ones came to.

    Args:
        limits: those of the keys that have any.
    """

    def __init__(self, limits: Mapping[str, Limits]) -> None:
        self.differences: list[str] = []
        self.outcomes: Counter[str] = Counter()
        """The ledger's rows."""
        self.daily: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By key, what all of its closed rows come to."""
        self._limits = limits
        self._limited: defaultdict[str, list[Row]] = defaultdict(list)
        self._works: dict[str, Work] = {}
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._billed: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._works)

    @property
    def sums(self) -> dict[str, Sums]:
        """By key."""
        return {
            key: Sums(self._counts[key], self._told[key], self._billed[key])
            for key in sorted(self._counts)
        }

    def begin(
        self, said: str, key: str, prompt: int, completion: int | None, *, retries: bool = False
    ) -> Work:
        """A piece of work, which its clients fill; ``done_at`` is theirs to set."""
        work = self._works[said] = Work(key, prompt, completion, retries)
        return work

    def take(self, rows: Iterable[Row]) -> None:
        """Rows as they stand now."""
        for row in rows:
            work = self._works.get(row.said)
            if work is None:
                self.differences.append(f"{row.said}: nobody asked, or it had been judged: {row}")
                continue
            work.rows[row.id] = row

    def unsettled(self) -> list[int]:
        """Rows that must be read again."""
        return [number for work in self._works.values() for number in work.unsettled]

    def judge(self, before: float) -> None:
        """Judge what was done before a moment, unless a row of it may still change."""
        for said, work in list(self._works.items()):
            if work.done_at is not None and work.done_at < before and not work.unsettled:
                self._judge(said, work)

    def close(self) -> None:
        """Judge all that is left."""
        for said, work in list(self._works.items()):
            self._judge(said, work)

    def limits_exceeded(self) -> list[str]:
        """The keys that used more than they may."""
        found = []
        for key, limits in self._limits.items():
            found += [
                f"{key} exceeded its limit: {what}" for what in _excess(self._limited[key], limits)
            ]
        return found

    def _judge(self, said: str, work: Work) -> None:
        del self._works[said]
        self.differences += [f"{said}: {what}" for what in work.differences()]
        for row in work.rows.values():
            self._add(row)
        whole = next((answer for answer in work.answers if answer.whole), None)
        complete = next((row for row in work.rows.values() if row.outcome in COMPLETE), None)
        if whole is not None:
            self._counts[work.key] += 1
            told = (whole.prompt_tokens, whole.completion_tokens)
            known = (work.prompt, work.completion)
            self._told[work.key] += sum(
                (t if t is not None else k) or 0 for t, k in zip(told, known, strict=True)
            )
            self._billed[work.key] += 0 if complete is None else complete.tokens

    def _add(self, row: Row) -> None:
        self.outcomes[row.outcome or "open"] += 1
        day = self.daily[row.key]
        day["requests"] += 1
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost"):
            day[name] += getattr(row, name)
        if row.outcome is not None and row.outcome not in COMPLETE:
            day[row.outcome] += 1
        if row.key in self._limits:
            self._limited[row.key].append(row)


def _excess(rows: list[Row], limits: Limits) -> list[str]:
    """What rows of one key have beyond its limits."""
    found = []
    starts = sorted(rows, key=lambda row: row.created_at)
    most_requests, most_tokens = _most_in_a_minute(starts)
    if limits.rpm is not None and len(most_requests) > limits.rpm:
        found.append(f"{len(most_requests)} requests in a minute, of {limits.rpm}")
    if limits.tpm is not None and (tokens := sum(row.tokens for row in most_tokens)) > limits.tpm:
        what = Counter(row.outcome for row in most_tokens)
        found.append(f"{tokens} tokens in a minute, of {limits.tpm}: {dict(what)}")
    if limits.concurrency is not None and len(most := _most_at_once(rows)) > limits.concurrency:
        found.append(f"{len(most)} requests at once, of {limits.concurrency}: {most}")
    days: Counter[int] = Counter()
    for row in rows:
        days[row.created_at // (1440 * MINUTE_MS)] += row.cost
    if limits.budget is not None and days and (cost := max(days.values())) > limits.budget:
        found.append(f"{cost} nano-units in a day, of {limits.budget}")
    return found


def _most_in_a_minute(starts: list[Row]) -> tuple[list[Row], list[Row]]:
    """The most rows that began, and those with the most tokens, in any 60 seconds."""
    first = tokens = most_tokens = 0
    by_number: list[Row] = []
    by_tokens: list[Row] = []
    for number, row in enumerate(starts):
        tokens += row.tokens
        while starts[first].created_at <= row.created_at - MINUTE_MS:
            tokens -= starts[first].tokens
            first += 1
        if number - first + 1 > len(by_number):
            by_number = starts[first : number + 1]
        if tokens > most_tokens:
            most_tokens, by_tokens = tokens, starts[first : number + 1]
    return by_number, by_tokens


def _most_at_once(rows: list[Row]) -> list[Row]:
    """The most rows that were open at one moment; one that ends makes room for one that begins."""
    ends = {row.id: row.created_at if row.ended_at is None else row.ended_at for row in rows}
    there: dict[int, Row] = {}
    most: list[Row] = []
    moments = [(row.created_at, 1, row) for row in rows] + [(ends[row.id], 0, row) for row in rows]
    for _, begins, row in sorted(moments, key=lambda moment: moment[:2]):
        if not begins:
            there.pop(row.id, None)
        elif ends[row.id] > row.created_at:
            there[row.id] = row
            most = max(most, list(there.values()), key=len)
    return most
