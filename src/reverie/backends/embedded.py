"""The backend for a model that runs here: a llama.cpp child process, over its socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from reverie.backends.base import Health, Take
from reverie.backends.encoding import kinds
from reverie.backends.encoding.forced_tools import is_forced, response_format
from reverie.backends.http import HttpBackend
from reverie.backends.prompt_turns import PromptTurns
from reverie.backends.read_prompts import ReadPrompts
from reverie.errors import BackendError, BackendTimeout, UnsupportedParameter
from reverie.events import Delta, Event, Prompt, Usage
from reverie.pending import Pending
from reverie.request import GenerateRequest
from reverie.runner.options import XLLAMACPP
from reverie.runner.supervisor import Runner, State
from reverie.settings import BackendSettings, ModelSettings
from reverie.tasks import R, TaskRequest

_NOTICE_TIMEOUT = 0.5
"""Seconds within which the supervisor notices that an engine whose socket failed has died."""

_KNOWN_GRAMMARS = 1024
"""The number of grammars whose trials are remembered."""
_NEVER = "\n"
"""No constrained answer contains it: an engine that writes it has dropped the constraint."""
_TRIAL_TOKENS = 4
"""Some schemas are dropped only after the first token."""


def _as_cached(batch: list[Event], tokens: int) -> list[Event]:
    """The events, with so many tokens of the prompt from the cache: what an engine finds there
    once its prompt has given way includes what it had just read of it.
    """
    return [
        replace(event, cached_tokens=min(tokens, event.cached_tokens))
        if isinstance(event, Prompt | Usage)
        else event
        for event in batch
    ]


class Supervisor(Protocol):
    """What keeps the engine running: here (``Runner``), or in the parent of this process."""

    memory: int
    context: int | None
    expected_context: int
    kv_tokens: int
    failure: str | None

    @property
    def state(self) -> State: ...

    @property
    def socket(self) -> Path: ...

    async def check(self) -> None: ...

    async def start(self, on_change: Callable[[], None]) -> None: ...

    async def changed(self) -> None: ...

    async def check_alive(self) -> bool: ...

    def forget_failure(self) -> None: ...

    async def stop(self) -> None: ...


class EmbeddedBackend:
    """One supervised engine process.

    Args:
        model: the GGUF file.
        first_token_timeout, stall_timeout: seconds, as in ``ServerSettings``.
        runner: keeps it running, if another process does.
    """

    kind = "embedded"
    url = ""
    weight = 1.0
    recovers = True
    can_continue = True
    can_count = True
    health: Health | None = None  # never probed: its supervisor watches it

    def __init__(
        self,
        settings: ModelSettings,
        model: Path,
        *,
        first_token_timeout: float,
        stall_timeout: float,
        runner: Supervisor | None = None,
    ) -> None:
        self.name = "embedded"
        self.slots = settings.slots
        self.runner: Supervisor = runner or Runner(settings.name, model, settings)
        self._guided = settings.engine == XLLAMACPP
        self._generates = settings.task == "generate"
        self._compiles: dict[str, bool] = {}
        self._turns = PromptTurns()
        self._read = ReadPrompts()
        self._http = HttpBackend(
            self.name,
            BackendSettings(url="http://engine/v1", kind="llamacpp"),
            model=settings.name,
            first_token_timeout=first_token_timeout,
            stall_timeout=stall_timeout,
            socket=lambda: self.runner.socket,
            # A binary built without LLGuidance dies of a grammar that needs it.
            converter="llguidance" if self._guided else "gbnf",
        )

    @property
    def ready(self) -> bool:
        return self.runner.state == "ready"

    @property
    def memory(self) -> int:
        """Estimated bytes that the engine needs; known after ``check_engine``."""
        return self.runner.memory

    @property
    def capacity(self) -> int | None:
        """llama.cpp breaks off all running generations when their tokens together exceed this."""
        return self.runner.kv_tokens if self._generates else None

    @property
    def context(self) -> int:
        return self.runner.context or self.runner.expected_context

    @property
    def failure(self) -> str | None:
        return self.runner.failure

    @property
    def checked_by(self) -> Hashable:
        return self.name

    def check(self, request: GenerateRequest) -> None:
        self._http.check(request)

    def probe_soon(self) -> None:
        """Does nothing: the supervisor watches the engine all the time."""

    async def count_prompt(self, request: GenerateRequest) -> int | None:
        return await self._http.count_prompt(request)

    def can_run(self, request: TaskRequest[Any]) -> bool:
        return self._http.can_run(request)

    async def run(self, request: TaskRequest[R]) -> R:
        async with self._failing_with_its_process():
            return await self._http.run(request)

    async def generate(self, request: GenerateRequest, take: Take) -> None:
        async with self._failing_with_its_process():
            if self._guided:
                await self._try_grammar(request)
            turn = self._turns.enter(self._read.tokens_to_read(request))
            cached: list[int] = []

            def take_in_turn(batch: list[Event]) -> Pending:
                return take(_as_cached(batch, cached[0]) if turn.gave_way and cached else batch)

            await turn.generate(
                lambda taker: self._http.generate(
                    request, taker, lambda prompt: cached.append(prompt.cached_tokens)
                ),
                take_in_turn,
                partial(self._read.remember, request),
            )

    @asynccontextmanager
    async def _failing_with_its_process(self) -> AsyncGenerator[None, None]:
        """Let a failure in here out only once the supervisor has noticed what the process did."""
        try:
            yield
        except BackendTimeout as error:
            if await self.runner.check_alive():
                raise
            # It is being replaced. A retry waits for that instead of another timeout.
            raise BackendError(
                "The model's engine hung. Try again.", reason="no sign of life"
            ) from error
        except BackendError:
            # Most likely it has just died. Wait until ``ready`` says so, so that a retry waits for
            # the restart instead of failing on the same socket.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NOTICE_TIMEOUT):
                    while self.ready:
                        await self.runner.changed()
            raise

    async def _try_grammar(self, request: GenerateRequest) -> None:
        """Make sure that the engine obeys the answer's grammar.

        LLGuidance silently drops a grammar that it can't compile. So each new grammar is tried
        once, with a bias towards a token that it forbids. The prompt is the same, so that it is
        in the engine's cache afterwards.

        Raises:
            UnsupportedParameter: the engine doesn't obey it.
        """
        grammar = kinds.grammar(request)
        if grammar is None:
            return
        if grammar not in self._compiles:
            trial = replace(
                request,
                max_tokens=_TRIAL_TOKENS,
                temperature=0.0,
                stop=(),
                logprobs=False,
                logit_bias={_NEVER: 100.0},
                response_format=response_format(request),
                tool_choice="none" if request.tools else None,
            )
            events: list[Event] = []
            await self._http.generate(trial, events.extend)
            text = "".join(event.text for event in events if isinstance(event, Delta))
            if len(self._compiles) >= _KNOWN_GRAMMARS:
                self._compiles.clear()
            self._compiles[grammar] = bool(text) and _NEVER not in text
        if not self._compiles[grammar]:
            param = "tools" if is_forced(request) else "response_format"
            raise UnsupportedParameter(
                "This model's engine can't constrain an answer to this JSON Schema: no answer "
                "fulfils it, or it is too large.",
                param=param,
            )

    def set_timeouts(self, *, first_token: float, stall: float) -> None:
        self._http.set_timeouts(first_token=first_token, stall=stall)

    async def check_engine(self) -> None:
        """Check that model and engine are usable, without starting them.

        Raises:
            ModelError: one of them isn't.
        """
        await self.runner.check()

    async def start(self, on_change: Callable[[], None]) -> None:
        await self.runner.start(on_change)
        await self._http.start(on_change)

    async def reconnect(self) -> None:
        """Ask the engine on another socket from now on: it was loaded anew, by another process."""
        await self._http.stop()
        await self._http.start(lambda: None)

    def forget_failure(self) -> None:
        """Let the engine be started again though it failed for good. It must be stopped."""
        self.runner.forget_failure()

    async def stop(self) -> None:
        await self._http.stop()
        await self.runner.stop()
