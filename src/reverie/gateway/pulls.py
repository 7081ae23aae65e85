"""Models that are fetched while the server runs, each in a process of its own.

Rule 1: a download that is cancelled has ended, with all its processes, before that is told.

Rule 2: what is fetched is named by the catalogue or the hub. No request names a file.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from reverie import background
from reverie.correlation import request_id
from reverie.errors import Conflict, InvalidRequest, ModelError, NotFound, Overloaded
from reverie.log import fields
from reverie.models.catalogue import CatalogueEntry
from reverie.models.download import PROGRAM, download
from reverie.models.reference import FileReference, parse
from reverie.text import without_folders
from reverie.times import format_moment, now_ms

logger = logging.getLogger("reverie")

MOST_AT_ONCE = 2
_KEPT = 20
"""Downloads that ended and are still listed."""
_RATE_SPAN = 5.0
"""Seconds over which the rate is taken."""

State = Literal["running", "done", "failed", "cancelled"]


class Pull:
    """One download."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.state: State = "running"
        self.error: str | None = None
        self._is_here = False
        self._done = 0
        self._total: int | None = None
        self._began_at = format_moment(now_ms())
        self._steps: deque[tuple[float, int]] = deque()

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "state": self.state,
            "done": self._done,
            "total": self._total,
            "bytes_per_second": self._rate() if self.state == "running" else None,
            "error": self.error,
            "began_at": self._began_at,
        }

    def apply(self, done: int, total: int | None) -> None:
        """Take how far it has come."""
        self._done, self._total = done, total
        self._steps.append((time.monotonic(), done))
        self._forget_old_steps()

    def complete(self, size: int) -> None:
        """Note that the model is here, with a file of so many bytes."""
        self._is_here = True
        self._total = self._total or size  # none was told if it was here already
        self._done = self._total

    def end(self, *, cancelled: bool) -> None:
        """Note that its process has ended."""
        if self._is_here:
            self.state = "done"
        else:
            self.state = "cancelled" if cancelled else "failed"

    def _rate(self) -> float | None:
        self._forget_old_steps()
        now = time.monotonic()
        if not self._steps or now <= self._steps[0][0]:
            return None
        at, done = self._steps[0]
        return round((self._done - done) / (now - at))

    def _forget_old_steps(self) -> None:
        now = time.monotonic()
        while len(self._steps) > 1 and now - self._steps[1][0] > _RATE_SPAN:
            self._steps.popleft()


class Pulls:
    """The downloads that run, and the latest that ended.

    Args:
        program: the command that fetches the model which its last argument names.
    """

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        self._program = program
        self._running: dict[str, tuple[Pull, asyncio.Task[None]]] = {}
        self._ended: deque[Pull] = deque(maxlen=_KEPT)
        self._stopped = False

    @property
    def running(self) -> list[Pull]:
        return [pull for pull, _ in self._running.values()]

    @property
    def all(self) -> list[Pull]:
        """Those that run, then those that ended, the latest first."""
        return [*self.running, *reversed(self._ended)]

    def begin(self, source: str, elsewhere: Sequence[str] = ()) -> Pull:
        """Begin a download, unless the same one runs already.

        Args:
            elsewhere: what other processes of this gateway fetch.

        Raises:
            InvalidRequest: the source is no model's name, or a path.
            Conflict: too many run.
            Overloaded: the server stops.
        """
        source = checked(source)
        if source in self._running:
            return self._running[source][0]
        if self._stopped:
            raise Overloaded("This server is shutting down. Try again shortly.", retry_after=1)
        running = [*self._running, *elsewhere]
        if len(running) >= MOST_AT_ONCE:
            names = " and ".join(running)
            raise Conflict(
                f"{MOST_AT_ONCE} downloads run at once, and {names} do. Wait for one, or cancel it."
            )
        pull = Pull(source)
        task = background.once("model pull", partial(self._run, pull))
        self._running[source] = pull, task
        task.add_done_callback(partial(self._note_end, pull))
        logger.info("model pull began", extra=fields(id=request_id(), source=source))
        return pull

    async def cancel(self, source: str) -> Pull:
        """End a download, with all its processes.

        Raises:
            InvalidRequest: as ``begin``.
            NotFound: no download of it runs.
        """
        running = self._running.get(checked(source))
        if running is None:
            raise NotFound("No download of this model runs.", param="source")
        pull, task = running
        task.cancel()
        await asyncio.wait({task})
        return pull

    async def stop(self) -> None:
        """End all of them, and let none begin any more. Idempotent."""
        self._stopped = True
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, pull: Pull) -> None:
        try:
            pull.complete(await download(pull.source, pull.apply, self._program))
        except ModelError as error:
            pull.error = without_folders(str(error))

    def _note_end(self, pull: Pull, task: asyncio.Task[None]) -> None:
        del self._running[pull.source]
        pull.end(cancelled=task.cancelled())
        self._ended.append(pull)
        logger.info(
            "model pull ended",
            extra=fields(id=request_id(), source=pull.source, state=pull.state, reason=pull.error),
        )


def checked(source: str) -> str:
    """The model's name, in its one spelling.

    Raises:
        InvalidRequest
    """
    write = "Write the name of a model in the catalogue, or hf:OWNER/REPO[/FILE.gguf]."
    try:
        reference = parse(source)
    except ModelError:
        raise InvalidRequest(f"source: There is no such model. {write}", param="source") from None
    if isinstance(reference, FileReference):
        raise InvalidRequest(f"source: A path isn't taken here. {write}", param="source")
    return reference.name if isinstance(reference, CatalogueEntry) else source
