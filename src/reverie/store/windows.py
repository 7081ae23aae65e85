"""What each limited subject used, second by second: the table behind limits per minute.

A subject is a key, a key on one model, or a model over all its callers. A row is kept for a few
minutes, which is longer than any limit looks back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs
from sqlalchemy import Connection, bindparam, delete, select, update

from reverie.store.database import schema
from reverie.store.database.prepared import Prepared, add_into
from reverie.store.limits import SPAN

_WINDOWS = schema.limit_windows
_KEPT = 300
"""Seconds for which rows are kept."""


class Correction(Struct, frozen=True, order=True):
    """The change to one second's tokens, once it is known what a request really used."""

    subject: str
    second: int
    difference: int


def subjects_of(key_id: str, model: str) -> tuple[str, str, str]:
    """The subjects that a request counts against, whether they have limits or not."""
    return f"key:{key_id}", f"key:{key_id}:{model}", f"model:{model}"


def read(
    connection: Connection, subjects: Iterable[str], second: int
) -> dict[str, list[tuple[int, int, int]]]:
    """Subject → (second, requests, tokens) of the last ``SPAN`` seconds.

    Rows from the future don't count: a clock that was ahead wrote them.
    """
    rows = _READ.execute(
        connection, {"after": second - SPAN, "before": second + SPAN}, list(subjects)
    )
    windows: dict[str, list[tuple[int, int, int]]] = {}
    for subject, at, requests, tokens in rows:
        windows.setdefault(subject, []).append((at, requests, tokens))
    return windows


def add(connection: Connection, used: Mapping[str, tuple[int, int]], second: int) -> None:
    """Count requests and tokens; ``used`` isn't empty."""
    _ADD.execute_many(
        connection,
        [
            {"subject": subject, "second": second, "requests": requests, "tokens": tokens}
            for subject, (requests, tokens) in sorted(used.items())
        ],
    )


def correct(connection: Connection, corrections: Iterable[Correction]) -> None:
    """Put what was used in place of what was reserved; there is at least one correction.

    Rows change in one order everywhere, so that no two gateways deadlock.
    """
    _CORRECT.execute_many(connection, [structs.asdict(one) for one in sorted(corrections)])


def sweep(connection: Connection, second: int) -> None:
    """Delete rows that no limit looks at any more."""
    connection.execute(delete(_WINDOWS).where(_WINDOWS.c.second < second - _KEPT))


_READ = Prepared(
    lambda _, subjects: select(_WINDOWS).where(
        _WINDOWS.c.subject.in_(subjects),
        _WINDOWS.c.second > bindparam("after"),
        _WINDOWS.c.second < bindparam("before"),
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
