"""What each limited subject used, second by second: the table behind limits per minute.

A subject is a key, a key on one model, or a model over all its callers. A row is kept for a few
minutes, which is longer than any limit looks back.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from reverie.store.database import schema
from reverie.store.database.known import known
from reverie.store.database.prepared import Prepared, add_into
from reverie.store.limits import SPAN, WindowSums

_WINDOWS = schema.limit_windows
_KEPT = 300
"""Seconds for which rows are kept."""
_MAX_KNOWN = 10_000
"""Subjects that a writer knows at most."""


class Corrections:
    """The changes to seconds' tokens, once it is known what requests really used."""

    def __init__(self) -> None:
        self._differences: dict[tuple[str, int], int] = {}

    def add(self, subjects: Iterable[str], second: int, difference: int) -> None:
        """Add to one second of several subjects."""
        for subject in subjects:
            place = (subject, second)
            self._differences[place] = self._differences.get(place, 0) + difference

    def write(self, connection: Connection) -> None:
        """Put what was used in place of what was reserved.

        Rows change in one order everywhere, so that no two gateways deadlock.
        """
        changes = [
            {"subject": subject, "second": second, "difference": difference}
            for (subject, second), difference in sorted(self._differences.items())
            if difference
        ]
        if changes:
            _CORRECT.execute_many(connection, changes)
            if (kept := known(connection, _Known)) is not None:
                kept.correct(self._differences)


@functools.lru_cache(maxsize=4096)
def subjects_of(key_id: str, model: str) -> tuple[str, str, str]:
    """The subjects that a request counts against, whether they have limits or not."""
    return f"key:{key_id}", f"key:{key_id}:{model}", f"model:{model}"


def sums(connection: Connection, subjects: Iterable[str], second: int) -> dict[str, WindowSums]:
    """Subject → what it used in the last ``SPAN`` seconds. Those that used nothing may be left out.

    Rows of the far future don't count: a clock that was ahead wrote them.
    """
    listed = list(subjects)
    kept = known(connection, _Known)
    found = {} if kept is None else kept.sums(connection, listed, second)
    if unknown := [subject for subject in listed if subject not in found]:
        rows = _SUMS.execute(connection, _span(second), unknown)
        found |= {row[0]: WindowSums(*row[1:]) for row in rows}
    return found


def seconds(connection: Connection, subject: str, second: int) -> list[tuple[int, int, int]]:
    """(second, requests, tokens) of each second that ``sums`` counts for a subject."""
    rows = _EACH.execute(connection, {**_span(second), "subject": subject})
    return [(at, requests, tokens) for at, requests, tokens in rows]


def _span(second: int) -> dict[str, int]:
    return {"after": second - SPAN, "before": second + SPAN}


def add(connection: Connection, used: Mapping[str, tuple[int, int]], second: int) -> None:
    """Count requests and tokens; ``used`` isn't empty."""
    _ADD.execute_many(
        connection,
        [
            {"subject": subject, "second": second, "requests": requests, "tokens": tokens}
            for subject, (requests, tokens) in sorted(used.items())
        ],
    )
    if (kept := known(connection, _Known)) is not None:
        kept.add(used, second)


def sweep(connection: Connection, second: int) -> None:
    """Delete rows that no limit looks at any more."""
    connection.execute(delete(_WINDOWS).where(_WINDOWS.c.second < second - _KEPT))
    if (kept := known(connection, _Known)) is not None:
        kept.advance(second)


class _Known:
    """The windows that a writer knows, each second of them, and their sums.

    A window with a second that is still to come isn't known: a clock that was ahead wrote it. If
    the clock is set back, none is.
    """

    def __init__(self) -> None:
        self._second = 0
        self._windows: dict[str, _Window] = {}

    def sums(
        self, connection: Connection, subjects: Sequence[str], second: int
    ) -> dict[str, WindowSums]:
        """The sums of those that can be known."""
        self.advance(second)
        if missing := [subject for subject in subjects if subject not in self._windows]:
            self._read(connection, missing)
        windows = self._windows
        return {s: windows[s].sums(second) for s in subjects if s in windows}

    def advance(self, second: int) -> None:
        """Note the time."""
        if second < self._second or len(self._windows) > _MAX_KNOWN:
            self._windows.clear()
        self._second = second

    def add(self, used: Mapping[str, tuple[int, int]], second: int) -> None:
        self.advance(second)
        for subject, (requests, tokens) in used.items():
            if subject in self._windows:
                self._windows[subject].add(second, requests, tokens)

    def correct(self, differences: Mapping[tuple[str, int], int]) -> None:
        for (subject, second), difference in differences.items():
            window = self._windows.get(subject)
            if window is not None and second in window.seconds:
                window.add(second, 0, difference)

    def _read(self, connection: Connection, subjects: Sequence[str]) -> None:
        found: dict[str, _Window] = {subject: _Window() for subject in subjects}
        rows = _SINCE.execute(connection, {"after": self._second - SPAN}, subjects)
        for subject, second, requests, tokens in rows:  # each subject's in the order of time
            found[subject].add(second, requests, tokens)
        for subject, second, *_ in rows:
            if second > self._second:
                found.pop(subject, None)
        self._windows |= found


class _Window:
    """What one subject used in each of the last seconds."""

    __slots__ = ("_requests", "_tokens", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[int, tuple[int, int]] = {}
        """Second → requests and tokens, in the order of time."""
        self._requests = 0
        self._tokens = 0

    def add(self, second: int, requests: int, tokens: int) -> None:
        before = self.seconds.get(second, (0, 0))
        self.seconds[second] = (before[0] + requests, before[1] + tokens)
        self._requests += requests
        self._tokens += tokens

    def sums(self, second: int) -> WindowSums:
        seconds = self.seconds
        while seconds and (oldest := next(iter(seconds))) <= second - SPAN:
            requests, tokens = seconds.pop(oldest)
            self._requests -= requests
            self._tokens -= tokens
        last_token = next((at for at in reversed(seconds) if seconds[at][1]), 0)
        return WindowSums(self._requests, self._tokens, next(reversed(seconds), 0), last_token)


_ZERO: ColumnElement[int] = literal_column("0", Integer)  # a ``Prepared`` takes no other values
_SECONDS = _WINDOWS.alias()
_IN_SPAN = (_WINDOWS.c.second > bindparam("after"), _WINDOWS.c.second < bindparam("before"))


def _newest(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
    """The newest of a subject's seconds, found from the index's end; 0 if there is none."""
    found = (
        select(func.max(_SECONDS.c.second))
        .where(
            _SECONDS.c.subject == _WINDOWS.c.subject,
            _SECONDS.c.second > bindparam("after"),
            _SECONDS.c.second < bindparam("before"),
            *conditions,
        )
        .scalar_subquery()
    )
    return func.coalesce(found, _ZERO)


# Summed here: a busy subject has a row for each second, and every request looks at all of them.
_SUMS = Prepared(
    lambda _, subjects: (
        select(
            _WINDOWS.c.subject,
            func.sum(_WINDOWS.c.requests).label("requests"),
            cast(func.sum(_WINDOWS.c.tokens), BigInteger).label("tokens"),
            _newest().label("last_request"),  # each row has a request
            _newest(_SECONDS.c.tokens != _ZERO).label("last_token"),
        )
        .where(_WINDOWS.c.subject.in_(subjects), *_IN_SPAN)
        .group_by(_WINDOWS.c.subject)
    )
)
_SINCE = Prepared(
    lambda _, subjects: (
        select(_WINDOWS.c.subject, _WINDOWS.c.second, _WINDOWS.c.requests, _WINDOWS.c.tokens)
        .where(_WINDOWS.c.subject.in_(subjects), _WINDOWS.c.second > bindparam("after"))
        .order_by(_WINDOWS.c.subject, _WINDOWS.c.second)
    )
)
_EACH = Prepared(
    lambda *_: select(_WINDOWS.c.second, _WINDOWS.c.requests, _WINDOWS.c.tokens).where(
        _WINDOWS.c.subject == bindparam("subject"), *_IN_SPAN
    )
)
_CORRECT = Prepared(
    lambda *_: (
        update(_WINDOWS)
        .where(_WINDOWS.c.subject == bindparam("subject"), _WINDOWS.c.second == bindparam("second"))
        .values(tokens=_WINDOWS.c.tokens + bindparam("difference"))
    )
)


_ADD = add_into(_WINDOWS)
