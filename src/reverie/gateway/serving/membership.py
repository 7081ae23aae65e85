"""Which engines of a cluster a model's pool has: the rules by which a view changes them.

Rule 1: a view adds at once. An engine is added once it is ready. If it starts anew later, it stays,
and the circuit breaker deals with that.

Rule 2: a view removes only what it says has ended, what is missing from it though it is complete
and the same manager listed it before, and what another engine has replaced under its name. What is
missing from the complete view of another manager may live all the same: it goes once a probe of it
fails. An incomplete view removes nothing else.

Rule 3: without a view, as without a manager, everything stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from reverie.cluster.messages import Engine, View


class Known(NamedTuple):
    """A member, as it was added."""

    engine: Engine
    """As the latest view that listed it has it."""
    incarnation: str
    """Of that view."""


class Changes(NamedTuple):
    """What a view changes."""

    joined: list[Engine]
    """Engines to add, once those below are removed."""
    gone: list[str]
    """Names of members to remove."""
    doubtful: list[str]
    """Names of members that go once a probe fails."""
    stayed: list[Engine]
    """Members that the view lists, as it has them."""


def changes(
    members: Mapping[str, Known],
    engines_of_model: Iterable[Engine],
    view: View,
    serves: Callable[[Engine], bool],
) -> Changes:
    """What a view changes of a model's members.

    Args:
        members: by name.
        engines_of_model: those of the view's engines that are this model's.
        serves: tells whether an engine runs what this model is.
    """
    found = Changes([], [], [], [])
    ended = frozenset(view.ended)
    listed: dict[str, list[Engine]] = {}
    for engine in engines_of_model:
        if engine.info.uid not in ended:
            listed.setdefault(engine.name, []).append(engine)

    for name, known in members.items():
        engines = listed.pop(name, [])
        same = next((one for one in engines if _is_same(one, known.engine)), None)
        other = None if same is not None and not same.leaving else _joining(engines, serves)
        if other is not None:
            found.gone.append(name)
            found.joined.append(other)
        elif same is not None:
            found.stayed.append(same)
        elif _has_gone(known, view, ended) and not _is_listed(known, engines):
            found.gone.append(name)
        elif view.complete and not _is_listed(known, engines):
            found.doubtful.append(name)
    for engines in listed.values():
        if (new := _joining(engines, serves)) is not None:
            found.joined.append(new)
    return found


def _has_gone(known: Known, view: View, ended: frozenset[str]) -> bool:
    if known.engine.info.uid in ended:
        return True
    return view.complete and view.incarnation == known.incarnation


def _is_listed(known: Known, engines: Iterable[Engine]) -> bool:
    """True if the member's process is among these, if only at another place, where it isn't ready
    yet."""
    return any(engine.info.uid == known.engine.info.uid for engine in engines)


def _is_same(engine: Engine, before: Engine) -> bool:
    """True if it is the same process, at the same place. One that starts anew may have none."""
    now, then = engine.info, before.info
    if now.uid != then.uid:
        return False
    return not now.url or (now.url, now.key) == (then.url, then.key)


def _joining(engines: Iterable[Engine], serves: Callable[[Engine], bool]) -> Engine | None:
    """The first of them that can be added."""
    for engine in engines:
        ready = engine.info.state == "ready" and engine.info.url
        if ready and not engine.leaving and serves(engine):
            return engine
    return None
