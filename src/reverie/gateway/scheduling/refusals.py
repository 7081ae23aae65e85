"""What a request is told that no backend of its model can take, however long it waits."""

from __future__ import annotations

from reverie.errors import BackendError, Overloaded

_DRAINED_RETRY = 30.0
"""Seconds after which a request may come again that found all backends draining: a guess."""


def unservable(reason: str) -> BackendError:
    return BackendError(
        "This model can't be served at the moment. Its operator's log says why.", reason=reason
    )


def drained() -> Overloaded:
    return Overloaded(
        "This model is out of service for now: its operator lets no new request to it. Try again "
        "later.",
        retry_after=_DRAINED_RETRY,
    )


def all_fail(seconds_to_trial: float) -> BackendError:
    return BackendError(
        "Every backend of this model fails at the moment. Try again shortly.",
        reason="no backend is due for a trial",
        retry_after=seconds_to_trial,
    )
