"""What the gateway does now, and did in the last hour, for those who look on. Bounded in memory.

Rule: nothing here is a client's own words: no prompt, no answer, no secret.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reverie.errors import AnswerCancelled
from reverie.gateway.pulls import Pull
from reverie.gateway.record import RequestRecord
from reverie.gateway.scheduling.description import describe_backend
from reverie.gateway.serving.served_models import ServedModel
from reverie.times import format_moment

_MINUTES = 60
_SAMPLES = 64
"""Times of one minute that percentiles are taken from: the first so many."""
_ERRORS = 50
_SHOWN = 500
"""Running requests that are listed; more are only counted."""
_OF_BACKENDS = (
    "name", "state", "reason", "draining", "ready", "in_flight", "slots", "tokens_per_second",
    "last_error",
)  # fmt: skip


_TOLD = (
    "ended", "requests", "failed", "failovers", "prompt", "completion", "ttfts", "durations",
)  # fmt: skip


class _Minute:
    """What ended within one minute. Times are in seconds."""

    __slots__ = (
        "_shown",
        "completion",
        "durations",
        "ended",
        "failed",
        "failovers",
        "number",
        "prompt",
        "requests",
        "ttfts",
    )  # fmt: skip

    @classmethod
    def of(cls, told: Sequence[Any]) -> _Minute:
        """A minute as another process tells it."""
        minute = cls(told[0])
        for name, value in zip(_TOLD, told[1:], strict=True):
            setattr(minute, name, value)
        return minute

    def told(self) -> list[Any]:
        """All of it, for another process."""
        return [self.number, *(getattr(self, name) for name in _TOLD)]

    def plus(self, other: _Minute) -> _Minute:
        """Both together."""
        both = _Minute(self.number)
        for name in _TOLD:
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def __init__(self, number: int) -> None:
        self.number = number
        """Minutes since 1970."""
        self.ended = 0
        """Records of requests and generations that were counted."""
        self.requests = 0
        self.failed = 0
        self.failovers = 0
        self.prompt = 0
        self.completion = 0
        self.ttfts: list[float] = []
        self.durations: list[float] = []
        self._shown: tuple[int, dict[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it. It is kept until one more request has ended."""
        if self._shown is None or self._shown[0] != self.ended:
            self._shown = self.ended, self._to_json()
        return self._shown[1]

    def _to_json(self) -> dict[str, Any]:
        ttft, duration = _percentiles(sorted(self.ttfts)), _percentiles(sorted(self.durations))
        return {
            "at": format_moment(self.number * 60_000),
            "requests": self.requests,
            "failed": self.failed,
            "failovers": self.failovers,
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "ttft_p50": ttft["p50"],
            "ttft_p95": ttft["p95"],
            "duration_p50": duration["p50"],
            "duration_p95": duration["p95"],
        }


class Live:
    """The requests that run, and the last hour's, by minutes."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        """Set once the server stops: whoever watches is to leave."""
        self._running: dict[RequestRecord, None] = {}
        self._minutes: deque[_Minute] = deque(maxlen=_MINUTES)
        self._errors: deque[dict[str, Any]] = deque(maxlen=_ERRORS)

    def began(self, record: RequestRecord) -> None:
        self._running[record] = None

    def ended(self, record: RequestRecord) -> None:
        """Count a request that has ended: it is in the record how."""
        self._running.pop(record, None)
        minute = self._minute()
        minute.ended += 1
        minute.requests += record.name == "request"
        minute.failovers += record.failovers
        minute.prompt += record.prompt_tokens or 0
        minute.completion += record.completion_tokens or record.pieces
        if len(minute.durations) < _SAMPLES and record.outcome in ("ok", "length"):
            minute.durations.append(record.duration)
            if record.time_to_first_token is not None:
                minute.ttfts.append(record.time_to_first_token)
        if record.outcome in ("failed", "stopped"):
            minute.failed += 1
            self._errors.append(
                {
                    "at": format_moment(int(time.time() * 1000)),
                    "id": record.id,
                    "model": record.model,
                    "backend": record.backend,
                    "key": record.key,
                    "error": record.error,
                    "reason": record.reason,
                }
            )

    def cancel(self, request_id: str) -> int:
        """End the requests with this id, which clients may have chosen; tell how many."""
        found = [one for one in self._running if one.id == request_id and one.cancel is not None]
        for record in found:
            if record.cancel is not None:
                record.cancel(AnswerCancelled(by="operator"))
        return len(found)

    def tell(self, models: Iterable[ServedModel], pulls: Iterable[Pull]) -> dict[str, Any]:
        """What this process adds to another's snapshot, ready for JSON."""
        self._minute()
        running = list(self._running)
        return {
            "running": len(running),
            "requests": [_to_json(record) for record in running[:_SHOWN]],
            "models": [_model_to_json(model) for model in models],
            "minutes": [minute.told() for minute in self._minutes],
            "errors": list(self._errors),
            "pulls": [pull.to_json() for pull in pulls],
        }

    def snapshot(
        self,
        models: Iterable[ServedModel],
        pulls: Iterable[Pull] = (),
        gateway: Mapping[str, Any] | None = None,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """All of it, ready for JSON. Durations are in seconds.

        Args:
            pulls: the downloads that run.
            gateway: what is true of all of it.
            others: what the other processes of this gateway ``tell``.
        """
        own = self.tell(models, pulls)
        minutes = _add_up(list(self._minutes), others)
        everyone = [own, *others]
        requests = [one for each in everyone for one in each["requests"]]
        errors = [one for each in everyone for one in each["errors"]]
        ttfts = sorted(one for minute in minutes for one in minute.ttfts)
        durations = sorted(one for minute in minutes for one in minute.durations)
        return {
            "at": format_moment(int(time.time() * 1000)),
            "running": sum(each["running"] for each in everyone),
            "requests": requests[:_SHOWN],
            "models": _models_together([each["models"] for each in everyone]),
            "minutes": [minute.to_json() for minute in minutes],
            "time_to_first_token": _percentiles(ttfts),
            "duration": _percentiles(durations),
            "errors": sorted(errors, key=lambda one: str(one["at"]))[-_ERRORS:],
            "pulls": [one for each in everyone for one in each["pulls"]],
            "gateway": gateway,
        }

    def _minute(self) -> _Minute:
        """The present one. Where the clock was set back, the latest goes on."""
        number = int(time.time() // 60)
        if not self._minutes or number > self._minutes[-1].number:
            self._minutes.append(_Minute(number))
        while self._minutes[0].number <= self._minutes[-1].number - _MINUTES:
            self._minutes.popleft()
        return self._minutes[-1]


def _to_json(record: RequestRecord) -> dict[str, Any]:
    """A request that runs. ``state``: it is queued, in its prompt, or in its answer."""
    state = "queued"
    if record.granted is not None:
        state = "prompt" if record.first_token is None else "answer"
    elif record.replayed is not None:
        state = "answer"
    ttft = record.time_to_first_token
    return {
        "id": record.id,
        "kind": record.name,
        "route": record.route,
        "key": record.key,
        "model": record.model,
        "backend": record.backend,
        "state": state,
        "stream": record.stream,
        "seconds": round(record.duration, 2),
        "time_to_first_token": None if ttft is None else round(ttft, 3),
        "tokens": record.pieces,
        "failovers": record.failovers,
        "cancellable": record.cancel is not None,
    }


def _model_to_json(model: ServedModel) -> dict[str, Any]:
    pool = model.pool
    described = [describe_backend(model.name, state) for state in pool.states]
    return {
        "model": model.name,
        "state": model.state,
        "task": model.settings.task,
        "waiting": pool.waiting,
        "in_flight": pool.in_flight,
        "slots": sum(state.backend.slots for state in pool.states if state.backend.ready),
        "backends": [{key: one[key] for key in _OF_BACKENDS} for one in described],
    }


def _add_up(own: list[_Minute], others: Sequence[Mapping[str, Any]]) -> list[_Minute]:
    """The minutes of all processes, one after the other."""
    if not others:
        return own
    found = {minute.number: minute for minute in own}
    for told in (told for other in others for told in other["minutes"]):
        minute = _Minute.of(told)
        known = found.get(minute.number)
        found[minute.number] = minute if known is None else known.plus(minute)
    return [found[number] for number in sorted(found)][-_MINUTES:]


def _models_together(each: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The models of the first process, with what waits and runs in all of them."""
    models, *others = each
    for other in others:
        by_name = {model["model"]: model for model in other}
        for model in models:
            if (same := by_name.get(model["model"])) is not None:
                model["waiting"] += same["waiting"]
                model["in_flight"] += same["in_flight"]
                for one, its in zip(model["backends"], same["backends"], strict=False):
                    one["in_flight"] += its["in_flight"]
    return list(models)


def _percentiles(ordered: Sequence[float]) -> dict[str, float | None]:
    """The median and the 95th percentile, by the nearest rank."""
    if not ordered:
        return {"p50": None, "p95": None}
    last = len(ordered) - 1
    return {
        "p50": round(ordered[last // 2], 3),
        "p95": round(ordered[min(last, int(0.95 * len(ordered)))], 3),
    }
