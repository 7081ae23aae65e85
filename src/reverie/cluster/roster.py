"""The engines of a cluster and their models, as the manager keeps them in mind."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from reverie.cluster.launcher import Handle
from reverie.cluster.messages import Engine, EngineInfo, EngineSpec, ModelStatus, Wanted
from reverie.cluster.placement import Placed
from reverie.cluster.scaling import Peak, engines_for, pause_after, within

LOADING_DEADLINE = 600.0
"""Seconds within which an engine that has its file must be ready."""
FETCHING_DEADLINE = 7200.0
LASTING = 10.0
"""Seconds for which an engine must have been ready, or its end counts as a failure."""
AVOIDED_FOR = 60.0
"""Seconds for which a machine on which an engine failed gets one only if no other can take it."""
ENDED_KEPT = 2000
"""Engines that have ended which are told of."""
_STARTS_KEPT = 5


@dataclass(slots=True, eq=False)
class EngineRecord:
    """One engine, from the moment its machine is chosen until it is gone."""

    name: str
    uid: str
    spec: EngineSpec
    machine: str
    began: float
    info: EngineInfo
    since: float
    """When its state last changed."""
    digest: str
    """Of the spec, as ``family`` is: neither is found out anew for each view."""
    family: str = ""
    handle: Handle | None = None
    """None while it is being started."""
    adopted: bool = False
    answered: bool = False
    """Whether it has told anything."""
    was_ready: bool = False
    """Whether a gateway may have used it."""
    leaving: float | None = None
    """Since when it gets no new request."""
    leaving_version: int | None = None
    """The first view that says so."""
    stopping: bool = False

    @classmethod
    def begin(cls, name: str, uid: str, spec: EngineSpec, machine: str, now: float) -> EngineRecord:
        """One that has told nothing yet."""
        info = EngineInfo(uid, 0, "loading")
        digest, family = spec.digest, spec.family
        return cls(name, uid, spec, machine, now, info, now, digest, family)

    @property
    def number(self) -> int:
        number = self.name.rpartition("/")[2]
        return int(number) if number.isdecimal() else -1

    @property
    def ready(self) -> bool:
        return self.info.state == "ready"

    @property
    def placed(self) -> Placed:
        memory = max(self.spec.memory, self.info.memory)
        return Placed(self.machine, self.spec.model, self.spec.gpus, memory)

    def lasts(self, now: float) -> bool:
        return self.ready and now - self.since >= LASTING

    def told(self, info: EngineInfo, now: float) -> None:
        if info.state != self.info.state:
            self.since = now
        self.info = info
        self.answered = True
        self.was_ready = self.was_ready or self.ready

    def trouble(self, now: float) -> str:
        """Why it will never be of use, as a sentence; empty if it may be."""
        state, age = self.info.state, now - self.since
        if state == "failed":
            return self.info.why or "It failed and gave no reason."
        limit = FETCHING_DEADLINE if state == "fetching" else LOADING_DEADLINE
        if state != "ready" and age >= limit:
            return f"It has been {state} for {limit / 60:g} minutes."
        return ""

    def leave(self, now: float) -> None:
        if self.leaving is None:
            self.leaving = now

    def stay(self) -> None:
        self.leaving = self.leaving_version = None

    def engine(self) -> Engine:
        return Engine(
            self.name,
            self.spec.model,
            self.digest,
            self.machine,
            self.info,
            leaving=self.leaving is not None,
            family=self.family,
        )


@dataclass(slots=True, eq=False)
class ModelRecord:
    """One model: what is asked for, and how its engines have fared."""

    name: str
    wanted: Wanted | None = None
    """None: no gateway has told since this manager began."""
    digest: str = ""
    """Of ``wanted``."""
    engines: dict[str, EngineRecord] = field(default_factory=dict)
    """By ``uid``."""
    peak: Peak = field(default_factory=Peak)
    """Of the engines that were needed."""
    need: int = 0
    """Engines that are needed now."""
    in_flight: int = 0
    waiting: int = 0
    frozen: int | None = None
    """The number of engines to keep while no gateway lives."""
    unlisted: float | None = None
    """Since when no gateway has listed it, though some live."""
    failures: int = 0
    """In a row."""
    failed_at: float = 0.0
    """When the last one was."""
    resume: float = 0.0
    """When the next engine may be started."""
    reason: str = ""
    """Why the last one failed, as a sentence."""
    why: str = ""
    memory: int = 0
    """What an engine needs, as one of them has told."""
    avoid: dict[str, float] = field(default_factory=dict)
    """Machines on which an engine failed, with the time until which that counts."""
    _vacant: list[int] = field(default_factory=list)
    """The numbers of engines that died, which their replacements take."""
    _starts: deque[float] = field(default_factory=lambda: deque(maxlen=_STARTS_KEPT))

    def want(self, wanted: Wanted, now: float) -> None:
        """Put a configuration in force."""
        if wanted == self.wanted:
            return
        if self.wanted is None:  # as many were needed as there are, as far as anybody knows
            self.peak.add(now, len(self.staying))
        digest = wanted.spec.digest
        if digest != self.digest:
            self.failures, self.resume, self.reason = 0, 0.0, ""
            self.avoid.clear()
            alike = [one.info for one in self.engines.values() if one.digest == digest]
            self.memory = max((one.memory for one in alike), default=0)
            self._starts.clear()
            self._starts.extend(
                one.seconds_to_ready for one in alike if one.seconds_to_ready is not None
            )
        self.wanted, self.digest = wanted, digest

    def measure(self, requests: int, living: bool, now: float) -> None:
        """Find out how many engines are needed."""
        if self.wanted is None:
            return
        if living:
            if self.frozen is not None:
                self.peak.add(now, self.frozen)
                self.frozen = None
            self.need = engines_for(requests, self.slots)
        else:
            if self.frozen is None:
                self.frozen = len(self.staying)
            self.need = self.frozen
        self.need = within(self.need, self.wanted.least, self.wanted.most)
        self.peak.add(now, self.need)

    def keep(self, now: float) -> int:
        """Engines that may stay: those that are needed, now or within ``idle`` seconds."""
        if self.wanted is None:
            return len(self.engines)
        return within(self.peak.over(now, self.wanted.idle), self.need, self.wanted.most)

    @property
    def slots(self) -> int:
        """Of one engine."""
        told = [one.info.slots for one in self.engines.values() if one.digest == self.digest]
        settings = self.wanted.spec.settings if self.wanted else {}
        return max(told, default=0) or int(settings.get("slots") or 1)

    @property
    def staying(self) -> list[EngineRecord]:
        return [one for one in self.engines.values() if one.leaving is None]

    def learn(self, engine: EngineRecord, now: float, first_ready: bool) -> None:
        """Take in what an engine of the configuration in force has told."""
        if engine.digest != self.digest:
            return
        self.memory = max(self.memory, engine.info.memory)
        if first_ready:
            self.avoid.pop(engine.machine, None)
            took = engine.info.seconds_to_ready if engine.adopted else now - engine.began
            if took is not None:
                self._starts.append(took)

    def failed(self, engine: EngineRecord, reason: str, now: float) -> None:
        """Count an engine that never got ready, or not for long. The first of the latter is
        replaced at once: it may have been killed."""
        self.failures += 1
        self.failed_at = now
        self.resume = now + pause_after(self.failures - engine.was_ready)
        self.reason = f"Its engine failed on {engine.machine}: {reason}"
        self.avoid[engine.machine] = now + AVOIDED_FOR

    def recover(self, now: float) -> None:
        """Forget failures once an engine lasts that got ready after them."""
        if self.failures and any(
            one.digest == self.digest and one.lasts(now) and one.since > self.failed_at
            for one in self.engines.values()
        ):
            self.failures, self.resume, self.reason = 0, 0.0, ""

    def avoided(self, now: float) -> set[str]:
        self.avoid = {one: until for one, until in self.avoid.items() if until > now}
        return set(self.avoid)

    @property
    def seconds_to_ready(self) -> float | None:
        return round(statistics.median(self._starts), 1) if self._starts else None

    def status(self) -> ModelStatus | None:
        """For a view; None if nobody has told what is asked for."""
        wanted = self.wanted
        if wanted is None:
            return None
        return ModelStatus(
            self.name,
            self.digest,
            wanted.least,
            wanted.most,
            wanted=self.need,
            in_flight=self.in_flight,
            waiting=self.waiting,
            seconds_to_ready=self.seconds_to_ready,
            why=self.why,
        )

    def vacate(self, engine: EngineRecord) -> None:
        """Keep the name of an engine that died for its replacement."""
        self._vacant.append(engine.number)
        del self._vacant[:-100]

    def free_number(self) -> int:
        """The number for a new engine."""
        taken = {one.number for one in self.engines.values()}
        for number in self._vacant:
            if number not in taken:
                self._vacant.remove(number)
                return number
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def forget_vacancies(self) -> None:
        """Nobody is missing: the next engine is no replacement."""
        self._vacant.clear()


class Roster:
    """All models and engines."""

    def __init__(self) -> None:
        self.models: dict[str, ModelRecord] = {}
        self._ended: deque[str] = deque(maxlen=ENDED_KEPT)

    def model(self, name: str) -> ModelRecord:
        return self.models.setdefault(name, ModelRecord(name))

    def add(self, engine: EngineRecord) -> None:
        self.model(engine.spec.model).engines[engine.uid] = engine

    def remove(self, engine: EngineRecord) -> bool:
        """Returns whether it was there."""
        model = self.models.get(engine.spec.model)
        if model is None or model.engines.pop(engine.uid, None) is None:
            return False
        self._ended.append(engine.uid)
        return True

    def engines(self) -> Iterator[EngineRecord]:
        for model in self.models.values():
            yield from model.engines.values()

    def ended(self) -> list[str]:
        return list(self._ended)

    def in_order(self) -> Sequence[EngineRecord]:
        return sorted(self.engines(), key=lambda one: (one.spec.model, one.number))
