"""The id of the request that the running task works for: it joins all that is done for it.

A task that a request's task starts works for it, too. Background work (``background``) works for
none, whoever started it. What the event loop calls by itself, as a connection's bytes arrive, is
told for whom: a connection to an engine remembers only who opened it.
"""

from __future__ import annotations

from contextvars import ContextVar

_id: ContextVar[str | None] = ContextVar("request id", default=None)


def bind(request_id: str) -> None:
    """Let this task, and those that it starts from now on, work for a request."""
    _id.set(request_id)


def request_id() -> str | None:
    """The request's id; None where the work is for no request."""
    return _id.get()
