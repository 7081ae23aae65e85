"""What a request asks of its model's pool."""

from __future__ import annotations

from typing import NamedTuple


class SlotRequest(NamedTuple):
    """A slot on a backend."""

    tokens: int = 0
    """What the request may come to, prompt and answer."""
    key: str = ""
    """Whose it is: keys that wait share the backends' tokens by ``weight``, which is 1 or more."""
    weight: int = 1
    affinity: bytes | None = None
    """The same for all turns of a conversation, which go to one backend as far as that can be.
    None: it goes anywhere."""
    excluded: frozenset[str] = frozenset()
    """Names of backends that it must not go to."""
    failed_on: frozenset[str] = frozenset()
    """Names of backends that have just let it down."""
    resuming: bool = False
    """Its client has a part of the answer. It waits until its own deadline, and for backends that
    have just failed to recover."""

    @property
    def is_retry(self) -> bool:
        """Whether a backend has let it down, after its turn had come."""
        return bool(self.failed_on)
