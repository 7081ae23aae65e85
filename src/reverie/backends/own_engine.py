"""What Reverie's own engine is asked like, wherever it runs: llama.cpp as ``runner`` starts it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any

from msgspec.structs import replace

from reverie.backends.base import Take
from reverie.backends.encoding import kinds
from reverie.backends.encoding.forced_tools import is_forced, response_format
from reverie.backends.http import HttpBackend
from reverie.backends.prompt_turns import PromptTurns
from reverie.backends.read_prompts import ReadPrompts
from reverie.errors import UnsupportedParameter
from reverie.events import Delta, Event, Prompt, Usage
from reverie.pending import Pending
from reverie.request import GenerateRequest
from reverie.runner.options import XLLAMACPP
from reverie.settings import BackendSettings, ModelSettings
from reverie.tasks import R, TaskRequest

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


class OwnEngine:
    """One engine of Reverie's own: how it is asked, and what it can do.

    Args:
        model: the settings of its model.
        address: where it listens.
        first_token_timeout, stall_timeout: seconds, as in ``ServerSettings``.
        socket, tls, probing: as in ``HttpBackend``.
    """

    weight = 1.0
    can_continue = True
    can_count = True

    def __init__(
        self,
        name: str,
        model: ModelSettings,
        address: BackendSettings,
        *,
        first_token_timeout: float,
        stall_timeout: float,
        socket: Callable[[], Path] | None = None,
        tls: SSLContext | None = None,
        probing: bool = False,
    ) -> None:
        self.name = name
        self._guided = model.engine == XLLAMACPP
        self._generates = model.task == "generate"
        self._compiles: dict[str, bool] = {}
        self._turns = PromptTurns()
        self._read = ReadPrompts()
        self._http = HttpBackend(
            name,
            address,
            model=model.name,
            first_token_timeout=first_token_timeout,
            stall_timeout=stall_timeout,
            socket=socket,
            tls=tls,
            # A binary built without LLGuidance dies of a grammar that needs it.
            converter="llguidance" if self._guided else "gbnf",
            prefills=False,
            probing=probing,
        )

    @property
    def checked_by(self) -> Hashable:
        return self._http.checked_by

    def check(self, request: GenerateRequest) -> None:
        self._http.check(request)

    async def count_prompt(self, request: GenerateRequest) -> int | None:
        return await self._http.count_prompt(request)

    def can_run(self, request: TaskRequest[Any]) -> bool:
        return self._http.can_run(request)

    async def run(self, request: TaskRequest[R]) -> R:
        return await self._http.run(request)

    async def generate(self, request: GenerateRequest, take: Take) -> None:
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
