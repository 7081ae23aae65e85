"""Which of a model's backends takes a request: a choice over their states, pure and synchronous.

First, the one that has most likely seen the conversation's opening, and has it in its cache:
rendezvous hashing (D. G. Thaler and C. V. Ravishankar, "Using Name-Based Mappings to Increase Hit
Rates", IEEE/ACM ToN 6(1), 1998), by capacity. When a backend goes, its conversations alone move;
when it is back, they are back. No more load follows it than a bound allows (V. Mirrokni, M. Thorup
and M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018).

Else, the one with the least to do, by how fast it is. One that hasn't been measured counts as the
fastest, so that it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Set
from hashlib import blake2b

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.slot_request import SlotRequest
from reverie.request import GenerateRequest

LOAD_BOUND = 1.25
"""How far above the mean a backend's load may be for a conversation to go there, plus one."""
SLOWEST = 20.0
"""A backend counts as so many times slower than the fastest, at the most."""

_OPENING_MESSAGES = 32
_OPENING_PIECE = 4096
"""Characters from a text's beginning, and from its end, that tell one opening from another."""


def choose(
    members: Sequence[BackendState],
    slot_request: SlotRequest,
    now: float,
    awaited: Set[str] = frozenset(),
) -> BackendState | None:
    """The backend for a request; None if none of them can take it now.

    A model's only backend is tried however it fared: to refuse would help nobody. So is, where all
    fail requests, any that answers probes: it may be one client's requests that they fail. One that
    asked for a pause has it for as long as there is another to wait for.

    Args:
        now: on the members' clock.
        awaited: names of backends whose room is for others, who come first.
    """
    ready = [m for m in members if m.backend.ready and m.name not in slot_request.excluded]
    usable = [member for member in ready if is_eligible(member, slot_request)]
    if not usable and not slot_request.resuming:
        usable = ready if len(members) == 1 else [m for m in ready if is_alive(m)]
    free = [m for m in usable if m.name not in awaited and m.has_room(slot_request.tokens)]
    candidates = [member for member in usable if not _is_doubtful(member, slot_request)]
    trusted = [member for member in free if member in candidates]
    if not trusted:
        return _least_burdened([m for m in free if not (m.pausing and candidates)], now)
    affinity = slot_request.affinity
    if affinity is not None:
        home = max(candidates, key=lambda member: _rendezvous_weight(affinity, member))
        if home in trusted and _within_bound(home, candidates):
            return home
    return _least_burdened(trusted, now)


def is_eligible(member: BackendState, slot_request: SlotRequest) -> bool:
    """Whether a backend is trusted with a request.

    One that was let down isn't the one to find out whether a backend is back, as long as there is
    another; but it may have to. If it can wait, it gives who failed it the time to recover.
    """
    if (
        slot_request.resuming
        and member.name in slot_request.failed_on
        and (member.failing or member.pausing)
    ):
        return False
    return member.breaker.admits or (slot_request.is_retry and not member.breaker.down)


def is_alive(member: BackendState) -> bool:
    """Whether the latest probe of a backend was answered."""
    health = member.backend.health
    return health is not None and health.ok and not member.breaker.down


def affinity_of(request: GenerateRequest) -> bytes:
    """A hash of a conversation's opening, up to its first user message.

    It is the same for each later turn, whose prompt begins with what the one before left in the
    engine's cache. Long texts are told apart by their ends and their lengths.
    """
    digest = blake2b(request.model.encode("utf-8", "surrogatepass"), digest_size=16)
    for message in request.messages[:_OPENING_MESSAGES]:
        role, content = message.get("role"), message.get("content")
        text = content if isinstance(content, str) else ""
        pieces = text[:_OPENING_PIECE], text[max(_OPENING_PIECE, len(text) - _OPENING_PIECE) :]
        digest.update(f"\0{role}\0{len(text)}\0".encode("utf-8", "surrogatepass"))
        digest.update("".join(pieces).encode("utf-8", "surrogatepass"))
        if role == "user":
            break
    return digest.digest()


def _is_doubtful(member: BackendState, slot_request: SlotRequest) -> bool:
    unsure = slot_request.is_retry and member.breaker.state != "closed"
    return member.in_cooldown or member.silent or unsure


def _rendezvous_weight(affinity: bytes, member: BackendState) -> float:
    """Weighted rendezvous hashing: the highest wins, each in proportion to its weight."""
    digest = blake2b(affinity + member.name.encode(), digest_size=8).digest()
    # 52 bits, so that it is never rounded to 1.
    uniform = ((int.from_bytes(digest) >> 12) + 0.5) / 2**52
    return -member.capacity / math.log(uniform)


def _within_bound(member: BackendState, members: Sequence[BackendState]) -> bool:
    mean = sum(m.in_flight for m in members) / sum(m.capacity for m in members)
    return member.in_flight <= LOAD_BOUND * mean * member.capacity + 1


def _least_burdened(members: Iterable[BackendState], now: float) -> BackendState | None:
    """The one with the least to do; of those with as little, one that hasn't been measured."""
    expected = {member: member.speed.expected(now) for member in members}
    fastest = min((seconds for seconds in expected.values() if seconds is not None), default=0.0)

    def burden(member: BackendState) -> tuple[bool, bool, float, bool]:
        seconds = expected[member]
        slowness = 1.0
        if seconds is not None and fastest > 0:
            slowness = min(seconds / fastest, SLOWEST)
        # What runs there and one more, as the fastest would count it; an idle one has nothing.
        load = (slowness * (member.in_flight + 1) - 1) / member.capacity
        return not member.breaker.admits, member.in_cooldown, load, seconds is not None

    return min(expected, key=burden, default=None)
