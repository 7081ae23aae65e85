"""Which of a model's backends takes a request: a choice over their states, pure and synchronous.

Preferred is the one that most likely has the conversation's opening in its cache, by
``rendezvous``. It gets no more load this way than a bound allows (V. Mirrokni, M. Thorup and
M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018).

Otherwise it is the one with the least to do, given how fast it is. One that hasn't been measured
counts as the fastest, so that it gets measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from hashlib import blake2b

from reverie.gateway.scheduling.backend_state import BackendState
from reverie.gateway.scheduling.lease import SlotRequest
from reverie.gateway.scheduling.rendezvous import Rendezvous
from reverie.prompt_bounds import text_of
from reverie.request import GenerateRequest

LOAD_BOUND = 1.25
"""How far above the mean, and one request more, a backend's load may be for a conversation to
prefer it."""
SLOWEST = 20.0
"""How many times slower than the fastest a backend counts, at most."""

_OPENING_MESSAGES = 32
_OPENING_PIECE = 4096
"""Characters at a text's beginning, and at its end, that tell one opening from another."""


def choose(
    states: Sequence[BackendState],
    slot_request: SlotRequest,
    now: float,
    awaited: Set[str] = frozenset(),
) -> BackendState | None:
    """The backend for a request; None if none of them can take it now.

    Args:
        now: on the states' clock.
        awaited: names of backends whose room is for others, who come first.
    """
    usable = destinations(states, slot_request)
    free = [
        s
        for s in usable
        if s.name not in awaited and s.has_room(slot_request.tokens, alone=slot_request.alone)
    ]
    trusted = [state for state in usable if not _is_doubtful(state, slot_request)]
    known = set(trusted)
    candidates = [state for state in free if state in known]
    if not candidates:
        return least_loaded(free, now)
    candidates = [
        state for state in candidates if state.has_free_slot(alone=slot_request.alone)
    ] or candidates
    affinity = slot_request.affinity
    if affinity is not None:
        best = Rendezvous(trusted).home_of(affinity)
        in_flight = sum([state.in_flight + state.elsewhere for state in trusted])
        capacity = sum([state.capacity for state in trusted])
        if best in candidates and is_within_bound(best, in_flight, capacity):
            return best
    return least_loaded(candidates, now)


def destinations(
    states: Sequence[BackendState], slot_request: SlotRequest
) -> Sequence[BackendState]:
    """The backends that a request goes to once they have room, as things stand.

    A model's only backend is tried whatever its health, unless it may be replaced: to refuse would
    help nobody. Where all fail requests, those that answer probes are tried, too: they may fail one
    client's requests alone. One that drains, or leaves, isn't there.
    One that asked for a pause, or may have died, is left alone for as long as there is another to
    wait for.
    """
    states = [state for state in states if state.in_service]
    ready = [s for s in states if s.backend.ready and s.name not in slot_request.excluded]
    usable = [state for state in ready if is_eligible(state, slot_request)]
    if not usable and not slot_request.resuming:
        last_resort = len(states) == 1 and not states[0].replaceable
        usable = ready if last_resort else [s for s in ready if answers_probes(s)]
        usable = [state for state in usable if not _is_given_time(state, slot_request)]
    trusted = any(not _is_doubtful(state, slot_request) for state in usable)
    all_lost = all(state.lost for state in usable)
    return [s for s in usable if not (s.pausing and trusted) and (all_lost or not s.lost)]


def is_eligible(state: BackendState, slot_request: SlotRequest) -> bool:
    """True if a backend's health lets it take a request.

    A retry may go where the circuit is open, if need be, but not where a probe failed. A request
    that can wait gives the backend that failed it time to recover.
    """
    if _is_given_time(state, slot_request):
        return False
    return state.admits or (slot_request.is_retry and not state.down)


def _is_given_time(state: BackendState, slot_request: SlotRequest) -> bool:
    """True if a request waits for a backend that failed it just now to recover, or for another."""
    can_wait = slot_request.resuming or state.replaceable
    return can_wait and state.name in slot_request.failed_on and state.needs_time


def answers_probes(state: BackendState) -> bool:
    """True if the latest probe of a backend was answered."""
    health = state.backend.health
    return health is not None and health.ok and not state.down


def affinity_of(request: GenerateRequest) -> bytes:
    """A hash of a conversation's opening, up to its first user message.

    Each later turn has the same: its prompt begins with what the turn before left in the engine's
    cache. Long texts are told apart by both their ends and their lengths.
    """
    digest = blake2b(request.model.encode("utf-8", "surrogatepass"), digest_size=16)
    if request.prompt is not None:
        digest.update(repr(request.prompt[:_OPENING_PIECE]).encode("utf-8", "surrogatepass"))
    for message in request.messages[:_OPENING_MESSAGES]:
        role, text = message.get("role"), text_of(message)
        pieces = text[:_OPENING_PIECE], text[max(_OPENING_PIECE, len(text) - _OPENING_PIECE) :]
        digest.update(f"\0{role}\0{len(text)}\0".encode("utf-8", "surrogatepass"))
        digest.update("".join(pieces).encode("utf-8", "surrogatepass"))
        if role == "user":
            break
    return digest.digest()


def _is_doubtful(state: BackendState, slot_request: SlotRequest) -> bool:
    """True if a backend is used only where no other has room. A retry is no trial."""
    unsure = slot_request.is_retry and state.circuit != "closed"
    return state.in_cooldown or state.silent or unsure


def is_within_bound(state: BackendState, in_flight: int, capacity: float) -> bool:
    """True if a conversation may prefer a backend.

    Args:
        in_flight: on all backends that could take it, those of other gateways included.
        capacity: of all of these.
    """
    load = state.in_flight + state.elsewhere
    return load <= LOAD_BOUND * in_flight / capacity * state.capacity + 1


def least_loaded(states: Iterable[BackendState], now: float) -> BackendState | None:
    """The one with the least to do; of those with as little, one that hasn't been measured."""
    expected = {state: state.speed.expected(now) for state in states}
    fastest = min((seconds for seconds in expected.values() if seconds is not None), default=0.0)

    def rank(state: BackendState) -> tuple[bool, bool, float, bool]:
        seconds = expected[state]
        slowness = 1.0
        if seconds is not None and fastest > 0:
            slowness = min(seconds / fastest, SLOWEST)
        # What runs there and one more, as the fastest would count it; an idle one has nothing.
        load = (slowness * (state.in_flight + state.elsewhere + 1) - 1) / state.capacity
        return not state.admits, state.in_cooldown, load, seconds is not None

    return min(expected, key=rank, default=None)
