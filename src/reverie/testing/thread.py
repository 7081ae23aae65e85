"""A scripted engine in a thread, for tests without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from reverie.testing.engine import ScriptedEngine
from reverie.testing.script import Script

_T = TypeVar("_T")

_OWN = frozenset({"engine", "_loop", "_thread"})
"""Attributes of ``ThreadedEngine`` itself. All others are its engine's."""


class ThreadedEngine:
    """A ``ScriptedEngine`` whose event loop runs in a thread of its own; a context manager.

    Every attribute of the engine can be read and set on this object, from any thread. The methods
    below block until the engine has done what they ask for.

    Args:
        options: of ``ScriptedEngine``.

    Raises:
        OSError: on entry; the address can't be had.
    """

    def __init__(self, script: Script | None = None, **options: Any) -> None:
        self.engine = ScriptedEngine(script, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self if name in _OWN else self.engine, name, value)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="scripted-engine", daemon=True
        )
        self._thread.start()
        try:
            self._run(self.engine.start())
        except BaseException:
            self._end_thread()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        try:
            self._run(self.engine.stop())
        finally:
            self._end_thread()

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

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _call(action: Callable[[], None]) -> None:
    action()
