"""A scripted engine in a thread, for tests without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from reverie.testing.engine import ScriptedEngine
from reverie.testing.script import Script

_T = TypeVar("_T")


class ThreadedEngine:
    """The engine of ``ScriptedEngine.in_thread``, from the outside.

    ``engine`` is the engine itself: its counters and its ``requests`` may be read, and its
    ``script`` and ``scripts`` set, from any thread. What acts goes through this class.
    """

    def __init__(self, engine: ScriptedEngine, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self._loop = loop

    @property
    def url(self) -> str:
        return self.engine.url

    @property
    def script(self) -> Script:
        return self.engine.script

    @script.setter
    def script(self, script: Script) -> None:
        self.engine.script = script

    def __getattr__(self, name: str) -> Any:
        """Everything that can only be read: ``requests``, ``completed``, …"""
        return getattr(self.engine, name)

    def wait_for(self, condition: Callable[[ScriptedEngine], object], timeout: float = 5.0) -> None:
        """Block until ``condition`` holds; it is called in the engine's thread.

        Raises:
            TimeoutError: it didn't come to hold.
        """
        self._run(self.engine.wait_for(condition, timeout))

    def kill(self) -> None:
        self._run(_call(self.engine.kill))

    def resume(self) -> None:
        self._run(_call(self.engine.resume))

    def restart(self) -> None:
        self._run(self.engine.restart())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _call(action: Callable[[], None]) -> None:
    action()


@contextmanager
def run_in_thread(
    script: Script | None = None, **options: Any
) -> Generator[ThreadedEngine, None, None]:
    """See ``ScriptedEngine.in_thread``."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="scripted-engine", daemon=True)
    thread.start()
    try:
        engine = ScriptedEngine(script, **options)
        asyncio.run_coroutine_threadsafe(engine.start(), loop).result()
        try:
            yield ThreadedEngine(engine, loop)
        finally:
            asyncio.run_coroutine_threadsafe(engine.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
