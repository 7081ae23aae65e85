"""Measures which threads and which batch serve people best with one model on this machine.

Every candidate is an engine of its own, run and asked as the gateway does. What is measured takes
a second or two, however large the model is: the first candidate tells how fast the machine is.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from reverie.backends.embedded import EmbeddedBackend
from reverie.errors import ModelError
from reverie.events import Delta, Event, Usage
from reverie.request import GenerateRequest
from reverie.runner.options import XLLAMACPP, cpu_batch
from reverie.runner.resources import usable_cores
from reverie.runner.supervisor import LOAD_TIMEOUT, Runner
from reverie.runner.tuned import Tuned
from reverie.settings import CacheType, ModelSettings

BATCHES = (16, 32, 64, 128, 256, 512)
MAX_GAP = 0.2
"""Seconds for which a stream may wait for its next token while a long prompt is read. The prompt
that is timed is no longer than it must be; batches of a very long one take longer."""
ALIKE = 0.97
"""A candidate this close to the best is as good: measurements differ by that much by themselves."""

_FAST_BATCH = 128
"""From 64 on, llama.cpp's attention to 16-bit keys is another, quicker one on a CPU."""
_ANSWER = 24
"""Tokens of an answer that is timed."""
_SHORT_PROMPT = 64
"""Tokens of the prompt of such an answer, about."""
_SECONDS = 1.5
"""How long the prompt should take that is timed."""
_MAX_WORDS = 1500
"""Of that prompt. A word is about a token."""
_MIN_CONTEXT = 256
"""Tokens that what is measured needs."""
PATIENCE = 120.0
"""Seconds for one answer."""


class Speed(Struct, frozen=True):
    """What one candidate came to. Speeds are in tokens a second."""

    threads: int
    batch: int
    prompt: float
    one: float
    """Of one answer alone."""
    all: float
    """Of as many as there are slots, together."""
    gap: float
    """Seconds: the longest that a running answer waited while a prompt was read beside it."""
    keys: CacheType = "auto"
    """How the keys of its cache were stored."""


class Result(Struct, frozen=True):
    """What was measured, what is chosen of it, and why."""

    speeds: list[Speed]
    chosen: Speed
    reasons: list[str]

    @property
    def tuned(self) -> Tuned:
        return Tuned(self.chosen.threads, self.chosen.batch)


async def tune(model: Path, settings: ModelSettings, on_step: Callable[[str], None]) -> Result:
    """Measure the candidates that the settings leave open.

    Args:
        model: the GGUF file.
        on_step: called with what is measured next.

    Raises:
        ModelError: the model or its engine can't be used, or the context is too small.
        BackendError: the engine failed.
        TimeoutError: an answer took more than ``PATIENCE`` seconds.
    """
    batch = settings.batch or cpu_batch(settings.slots)
    speeds = []
    words = 48
    for threads in [settings.threads] if settings.threads else thread_candidates(usable_cores()):
        on_step(_named(threads, batch))
        speed, words = await _measure(model, settings, threads, batch, words)
        speeds.append(speed)
    best, why_threads = choose_threads(speeds)
    reasons = ["threads: as the settings say" if settings.threads else why_threads]
    if settings.batch:
        return Result(speeds, best, [*reasons, "batch: as the settings say"])
    of_batches = [best]
    for batch in (one for one in BATCHES if one != best.batch):
        on_step(_named(best.threads, batch))
        speed, words = await _measure(model, settings, best.threads, batch, words)
        of_batches.append(speed)
        if speed.batch > best.batch and speed.gap > 2 * MAX_GAP:
            break  # larger ones are worse
    speeds += of_batches[1:]
    chosen, why_batch = choose_batch(of_batches)
    reasons.append(why_batch)
    if settings.cache_type_k == "auto" and settings.engine == XLLAMACPP:
        on_step(f"{_named(chosen.threads, _FAST_BATCH)}, f16 keys")
        fast = settings.model_copy(update={"cache_type_k": "f16"})
        speed, _ = await _measure(model, fast, chosen.threads, _FAST_BATCH, words)
        speeds.append(speed)
        reasons.append(what_keys_cost(chosen, speed))
    return Result(speeds, chosen, reasons)


def _named(threads: int, batch: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}, batch {batch}"


def thread_candidates(cores: int) -> list[int]:
    """All cores; all but one, which is left to the gateway; and half, where memory is the bound."""
    return sorted({cores, max(1, cores - 1), *([cores // 2] if cores >= 8 else [])}, reverse=True)


def choose_threads(speeds: list[Speed]) -> tuple[Speed, str]:
    """The fewest threads that are about as fast as the fastest; and why."""
    best = max(map(_worth, speeds))
    chosen = min((s for s in speeds if _worth(s) >= ALIKE * best), key=lambda speed: speed.threads)
    if len(speeds) == 1:
        return chosen, f"threads: {chosen.threads}, as there is one core"
    others = ", ".join(
        f"{other.threads} came to {_worth(other) / _worth(chosen):.0%}"
        for other in speeds
        if other is not chosen
    )
    return chosen, f"threads: {chosen.threads}; {others} of its speed"


def _worth(speed: Speed) -> float:
    """A prompt's speed, one answer's, and that of many: each counts as much."""
    return math.prod((speed.prompt, speed.one, speed.all)) ** (1 / 3)


def choose_batch(speeds: list[Speed]) -> tuple[Speed, str]:
    """The batch with the fastest prompts of those that hold no stream up; the smaller if alike."""
    fitting = [speed for speed in speeds if speed.gap <= MAX_GAP]
    if not fitting:
        chosen = min(speeds, key=lambda speed: speed.gap)
        return chosen, (
            f"batch: {chosen.batch}, which holds other streams up the least, by {chosen.gap:.2f} s;"
            f" none stays within {MAX_GAP} s"
        )
    fastest = max(speed.prompt for speed in fitting)
    alike = [speed for speed in fitting if speed.prompt >= ALIKE * fastest]
    chosen = min(alike, key=lambda speed: speed.batch)
    return chosen, (
        f"batch: {chosen.batch}, whose prompts are the fastest of those that hold other streams up "
        f"by no more than {MAX_GAP} s"
    )


def what_keys_cost(chosen: Speed, fast: Speed) -> str:
    """What an operator may choose, and isn't chosen for them: it gives up a promise."""
    return (
        "keys: auto, so that an answer that is cut goes on as it would have; where that doesn't "
        f'matter, cache_type_k = "{fast.keys}" and batch = {fast.batch} read prompts '
        f"{fast.prompt / chosen.prompt:.1f} × as fast and hold others up by {fast.gap:.2f} s"
    )


async def _measure(
    model: Path, settings: ModelSettings, threads: int, batch: int, words: int
) -> tuple[Speed, int]:
    """Run an engine so; gives what it came to, and how many words the next prompt should have."""
    given = settings.model_copy(update={"threads": threads, "batch": batch})
    async with _running(model, given) as backend:
        if backend.context < _MIN_CONTEXT:
            raise ModelError(
                f"A context of {backend.context} tokens is too small to be measured: "
                f"at least {_MIN_CONTEXT} are needed."
            )
        most = min(_MAX_WORDS, backend.context // 2)  # some words are more than a token
        probe = await _Answer(backend, words=min(words, 96), tokens=1).read()
        words = max(48, min(most, int(_SECONDS * probe.prompt_speed)))
        one = await _Answer(backend, tokens=_ANSWER).read()
        # The first goes on until the last one's prompt is read as well.
        tokens = _ANSWER + backend.slots * _SHORT_PROMPT // batch
        together = [_Answer(backend, tokens=tokens) for _ in range(backend.slots)]
        await asyncio.gather(*(answer.read() for answer in together))
        prompt_speed, gap = await _long_beside_running(backend, words)
        of_all, keys = _speed_of_all(together), settings.cache_type_k
        return Speed(threads, batch, prompt_speed, one.speed, of_all, gap, keys), words


async def _long_beside_running(backend: EmbeddedBackend, words: int) -> tuple[float, float]:
    """A prompt's speed while nothing else runs, and the gap that it makes beside an answer."""
    long = await _Answer(backend, words=words, tokens=1).read()
    running = _Answer(backend, tokens=100_000)
    task = asyncio.ensure_future(running.read())
    began = asyncio.ensure_future(running.began.wait())
    try:
        await asyncio.wait({task, began}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task  # raises what ended it
        came = time.perf_counter()
        await _Answer(backend, words=words, tokens=1).read()
        ended = [] if task.done() else [time.perf_counter()]
    finally:
        task.cancel()
        began.cancel()
        await asyncio.gather(task, began, return_exceptions=True)
    moments = [came, *(moment for moment in running.moments if moment > came), *ended]
    return long.prompt_speed, max((b - a for a, b in pairwise(moments)), default=0.0)


def _speed_of_all(answers: list[_Answer]) -> float:
    """Tokens a second from the last one's first token to the first one's last."""
    begin = max(answer.moments[0] for answer in answers)
    end = min(answer.moments[-1] for answer in answers)
    if end <= begin:  # the slots are more than an engine of this speed fills
        begin, end = min(a.moments[0] for a in answers), max(a.moments[-1] for a in answers)
    came = sum(begin < moment <= end for answer in answers for moment in answer.moments)
    return came / (end - begin)


class _Answer:
    """One timed answer to a prompt that no cache holds."""

    def __init__(self, backend: EmbeddedBackend, *, words: int = 16, tokens: int) -> None:
        text = " ".join(f"{time.perf_counter_ns() % 977}" for _ in range(words // 3 + 1))
        room = backend.context - 2 * words - 96
        self.moments: list[float] = []
        self.began = asyncio.Event()
        self._backend = backend
        self._prompt_tokens = 0
        self._asked_at = 0.0
        self._request = GenerateRequest(
            model=backend.name,
            messages=[{"role": "user", "content": f"{time.perf_counter_ns()} {text}"}],
            max_tokens=max(1, min(tokens, room)),
            temperature=0.0,
            ignore_eos=True,
        )

    async def read(self) -> _Answer:
        self._asked_at = time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            await self._backend.generate(self._request, self._take)
        return self

    def _take(self, batch: list[Event]) -> None:
        for event in batch:
            if isinstance(event, Delta):
                self.moments += [time.perf_counter()] * event.tokens
                self.began.set()
            elif isinstance(event, Usage):
                self._prompt_tokens = event.prompt_tokens

    @property
    def prompt_speed(self) -> float:
        return self._prompt_tokens / (self.moments[0] - self._asked_at)

    @property
    def speed(self) -> float:
        return (len(self.moments) - 1) / (self.moments[-1] - self.moments[0])


@asynccontextmanager
async def _running(model: Path, settings: ModelSettings) -> AsyncIterator[EmbeddedBackend]:
    runner = Runner(settings.name, model, settings)
    backend = EmbeddedBackend(
        settings, model, first_token_timeout=PATIENCE, stall_timeout=PATIENCE, runner=runner
    )
    try:
        await backend.start(lambda: None)
        await runner.wait_ready(LOAD_TIMEOUT)
        yield backend
    finally:
        await backend.stop()
