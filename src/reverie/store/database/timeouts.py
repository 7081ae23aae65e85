"""Connections to PostgreSQL that wait only so long for an answer.

The server bounds its own work (``statement_timeout``), but one that hangs as a whole bounds nothing
any more, and whoever waited for it would hang, too.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.errors import ConnectionTimeout


def connection_class(seconds: float) -> type[psycopg.Connection[Any]]:
    """Connections of which every step that takes longer raises ``ConnectionTimeout``.

    The connection is then closed: nobody knows what became of the step.
    """

    class Patient(psycopg.Connection[Any]):
        def wait(self, gen: Any, *given: Any, **named: Any) -> Any:
            return super().wait(self._bounded(gen), *given, **named)

        def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """``gen``, which is asked anew several times a second, until its time is over."""
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

    return Patient
