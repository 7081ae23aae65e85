"""Whether a backend's failure counts against it.

Rule: what two backends say in the same words over one request says nothing about them. So a failure
that a backend put into words isn't counted before another one has got further with the request, or
nobody is left to try.
"""

from __future__ import annotations

from reverie.errors import BackendError, ReverieError
from reverie.gateway.scheduling.lease import Lease


class Blame:
    """The failures of one request that aren't counted yet."""

    def __init__(self) -> None:
        self._open: list[tuple[Lease, BackendError]] = []

    def failed(self, lease: Lease, error: ReverieError) -> None:
        """Report a failure to its lease, and count it unless others may repeat it."""
        in_words = isinstance(error, BackendError) and error.said != ""
        lease.failed(error, counts=not in_words)
        if isinstance(error, BackendError) and in_words:
            self._open.append((lease, error))

    def another_got_further(self) -> None:
        """Count all failures so far: the request isn't to blame."""
        for lease, error in self._open:
            lease.count_failure(error)
        self._open.clear()

    def close(self) -> None:
        """Count the failures that one backend alone had: nobody else is asked."""
        backends: dict[str, set[str]] = {}
        for lease, error in self._open:
            backends.setdefault(error.said, set()).add(lease.backend.name)
        for lease, error in self._open:
            if len(backends[error.said]) == 1:
                lease.count_failure(error)
        self._open.clear()
