"""What a request is told that no backend of its model takes."""

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


def displaced(waiting: int, seconds_each: float, seconds_to_room: float) -> Overloaded:
    """Of the newest request of the key that has the most of a full queue.

    Args:
        waiting: requests of that key.
        seconds_each: that each may wait.
    """
    return Overloaded(
        f"Your key has {in_words(waiting)} waiting, each for up to {seconds_each:g} s. "
        "The queue is full, and the newest of them made room for another key's. Send fewer at "
        "once, or try again shortly.",
        retry_after=seconds_to_room,
    )


def all_fail(seconds_to_trial: float) -> BackendError:
    return BackendError(
        "Every backend of this model fails at the moment. Try again shortly.",
        reason="no backend is due for a trial",
        retry_after=seconds_to_trial,
    )


def in_words(count: int) -> str:
    return f"{count} request" if count == 1 else f"{count} requests"
