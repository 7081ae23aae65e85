"""Connections to PostgreSQL whose every step has a timeout.

The server bounds its own work (``statement_timeout``). A server that hangs as a whole enforces
nothing any more, and its clients would hang with it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.errors import ConnectionTimeout


def connection_class(seconds: float) -> type[psycopg.Connection[Any]]:
    """A connection class: a step that takes longer than ``seconds`` raises ``ConnectionTimeout``.

    The connection is closed then, since nobody knows whether the step was carried out.
    """

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *given: Any, **named: Any) -> Any:
            return super().wait(self._bounded(gen), *given, **named)

        def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """Drive ``gen``, which psycopg resumes several times a second, until the deadline."""
            deadline = time.monotonic() + seconds
            try:
                state = next(gen)
                while True:
                    ready = yield state
                    if not ready and time.monotonic() > deadline:
                        self.pgconn.finish()
                        raise ConnectionTimeout(f"no answer within {seconds:g} s")
                    state = gen.send(ready)
            except StopIteration as end:
                return end.value

    return BoundedConnection
