"""Which of many backends a conversation is at home on: weighted rendezvous hashing, sans-IO.

Each backend has a number by its name, each conversation one by its opening; the backend with the
highest product of the two is its home. When a backend goes, only its conversations move; when it is
back, so are they (D. G. Thaler and C. V. Ravishankar, "Using Name-Based Mappings to Increase Hit
Rates", IEEE/ACM ToN 6(1), 1998). Products are taken in the field of a prime: they are as good as
random, none equals another, and they cost a tenth of what a digest of both names would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

from reverie.gateway.scheduling.backend_state import BackendState

_PRIME = 2**61 - 1


class Rendezvous:
    """Some backends, each of which is home to as many conversations as its capacity asks for."""

    __slots__ = ("_groups",)

    def __init__(self, states: Iterable[BackendState]) -> None:
        groups: dict[float, tuple[list[int], list[BackendState]]] = {}
        for state in states:
            numbers, members = groups.setdefault(state.capacity, ([], []))
            numbers.append(_number_of(state.name))
            members.append(state)
        self._groups = groups

    def home_of(self, affinity: bytes) -> BackendState:
        """The backend that a conversation prefers; there must be one."""
        factor = _number(affinity)
        best, home = -math.inf, None
        for capacity, (numbers, members) in self._groups.items():
            products = [number * factor % _PRIME for number in numbers]
            highest = max(products)
            # Of equal capacities, the highest product has the highest weight. 52 bits of it, so
            # that it is never rounded to 1.
            weight = -capacity / math.log(((highest >> 9) + 0.5) / 2**52)
            if weight > best:
                best, home = weight, members[products.index(highest)]
        assert home is not None
        return home


@lru_cache(maxsize=4096)
def _number_of(name: str) -> int:
    return _number(name.encode())


def _number(name: bytes) -> int:
    """A number in 1.._PRIME - 1 for a name."""
    return int.from_bytes(blake2b(name, digest_size=8).digest()) % (_PRIME - 1) + 1
