"""The lives of engines: each is started, watched and stopped on its own, so that one that hangs
holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from reverie import background
from reverie.background import Watch
from reverie.cluster.launcher import EngineDied, Handle, Launcher, LaunchFailed
from reverie.cluster.messages import EngineInfo, Machine
from reverie.cluster.roster import EngineRecord

START_DEADLINE = 60.0
"""Seconds within which an engine's process must run."""
WATCH_DEADLINE = 60.0
"""Seconds after which an engine is asked anew that should have answered after half a minute."""
UNANSWERED = 3
"""Times in a row, after which its process hangs, and is ended."""
STOP_DEADLINE = 60.0
"""Seconds after which an engine that doesn't end is given up."""
_AGAIN = 1.0
"""Seconds until an engine is asked anew whose answer was of no use."""


class End(NamedTuple):
    """How an engine's life ended."""

    reason: str
    """As a sentence for the operator."""
    launched: bool
    """False if it couldn't be started."""


class Lives:
    """Starts, watches and stops engines.

    Args:
        on_told: an engine has told something of itself.
        on_end: an engine is gone; called once for each.
    """

    def __init__(
        self,
        launcher: Launcher,
        on_told: Callable[[EngineRecord, EngineInfo], None],
        on_end: Callable[[EngineRecord, End], None],
    ) -> None:
        self._launcher = launcher
        self._on_told = on_told
        self._on_end = on_end
        self._lives: dict[EngineRecord, asyncio.Task[None]] = {}
        self._stops: set[asyncio.Task[None]] = set()
        self._watch = Watch("cluster engines", harmless=True)

    def start(self, engine: EngineRecord, machine: Machine) -> None:
        async def live() -> None:
            end = await self._launch(engine, machine)
            self._ended(engine, end or await self._attend(engine, engine.handle))

        self._lives[engine] = background.once("cluster engine", live)

    def adopt(self, engine: EngineRecord, handle: Handle) -> None:
        engine.handle = handle

        async def live() -> None:
            self._ended(engine, await self._attend(engine, handle))

        self._lives[engine] = background.once("cluster engine", live)

    def stop(self, engine: EngineRecord, reason: str = "It was stopped.") -> None:
        """End an engine whose process runs. Idempotent."""
        handle = engine.handle
        if engine.stopping or handle is None:
            return
        engine.stopping = True

        async def stop() -> None:
            with self._watch.step():
                async with asyncio.timeout(STOP_DEADLINE):
                    await handle.stop()
            self._ended(engine, End(reason, True))

        task = background.once("cluster engine's stop", stop)
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def close(self) -> None:
        """Attend to no engine any more. They run on."""
        self._watch.end()
        tasks = [*self._lives.values(), *self._stops]
        self._lives.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _launch(self, engine: EngineRecord, machine: Machine) -> End | None:
        """Start its process. Returns how that failed; None if it runs."""
        try:
            async with asyncio.timeout(START_DEADLINE):
                engine.handle = await self._launcher.start(
                    engine.name, engine.uid, engine.spec, machine
                )
        except LaunchFailed as failure:
            return End(str(failure), False)
        except TimeoutError:
            return End(f"It hasn't started within {START_DEADLINE:g} seconds.", False)
        except Exception as failure:
            self._watch.failed(failure)
            return End(f"It can't be started: {type(failure).__name__}.", False)
        return None

    async def _attend(self, engine: EngineRecord, handle: Handle | None) -> End:
        """Hand on what an engine tells until it is gone."""
        assert handle is not None
        seen, unanswered = -1, 0
        while True:
            try:
                async with asyncio.timeout(WATCH_DEADLINE):
                    info = await handle.watch(seen)
            except EngineDied as death:
                return End(str(death), True)
            except TimeoutError:
                unanswered += 1
                if unanswered == UNANSWERED:
                    self.stop(engine, "Its process doesn't answer.")
                await asyncio.sleep(_AGAIN)
            except Exception as failure:
                self._watch.failed(failure)
                await asyncio.sleep(_AGAIN)
            else:
                unanswered = 0
                if info.revision > seen:
                    seen = info.revision
                    self._on_told(engine, info)
                else:  # nothing has changed for half a minute, or it answers too soon
                    await asyncio.sleep(_AGAIN / 10)

    def _ended(self, engine: EngineRecord, end: End) -> None:
        """Tell of its end, once; nobody attends to it any more."""
        life = self._lives.pop(engine, None)
        if life is None:
            return
        if life is not asyncio.current_task():
            life.cancel()
        self._on_end(engine, end)
