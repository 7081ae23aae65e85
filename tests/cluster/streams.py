"""Gateways of a cluster as processes, clients who read answers from them, and what those saw."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import aiohttp
import pytest

from tests.cli.test_serve import Serving, serving
from tests.cluster.engines import text_of, write_model, write_program
from tests.cluster.ray_cluster import Process, RayCluster

ADMIN_KEY = "an-admin-key-of-24-letters"
FIGURES = "REVERIE_CLUSTER_FIGURES"
"""The variable that names a file to which figures are added: ``bench/cluster_failures.py``."""

PACE = 0.04
"""Seconds from one word to the next."""
WORDS = 80
"""Words of an answer."""


def note(what: str, **figures: float) -> None:
    """Print seconds that were measured, and keep them if they are asked for."""
    line = json.dumps({"what": what, **{name: round(value, 3) for name, value in figures.items()}})
    print(line)  # noqa: T201
    if file := os.environ.get(FIGURES):
        with open(file, "a") as figures_file:
            figures_file.write(line + "\n")


def configuration(cluster: RayCluster, models: str) -> str:
    return (
        "[server]\nstall_timeout = 2\nfirst_token_timeout = 2\n"
        f'[cluster]\naddress = "{cluster.address}"\nidle = 1\n{models}'
    )


def scripted_model(
    folder: Path, name: str, engines: str, pace: float = PACE, **settings: object
) -> str:
    """A ``[[models]]`` whose engines are scripted."""
    keys = {
        "name": name,
        "source": str(write_model(folder)),
        "engine": str(write_program(folder, pace=pace)),
        "engines": engines,
        "cache_mib": 0,
        **settings,
    }
    return "[[models]]\n" + "".join(f"{key} = {json.dumps(keys[key])}\n" for key in keys)


class Gateway:
    """A running ``reverie serve``."""

    def __init__(self, server: Serving) -> None:
        self.server = server
        self.pid = server.process.pid

    @cached_property
    def url(self) -> str:
        """Where clients reach it, once it listens."""
        return self.server.url

    @property
    def child(self) -> int:
        """Its part of Ray."""
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                if b"reverie.cluster.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
        raise AssertionError("there is no child")

    def cluster(self) -> dict[str, Any]:
        """What its operator sees of the cluster."""
        request = Request(f"{self.url}/admin/v1/cluster")
        request.add_header("Authorization", f"Bearer {ADMIN_KEY}")
        with urlopen(request) as response:
            told: dict[str, Any] = json.load(response)
        return told

    def ready(self, model: str = "m") -> dict[str, str]:
        """The addresses of a model's engines that are ready and don't leave, by name."""
        return {
            one["name"]: one["url"]
            for one in self.cluster()["engines"]
            if one["model"] == model and one["state"] == "ready" and not one["leaving"]
        }

    def busy(self, model: str) -> str:
        """The machine of one of a model's engines that answers a request of this gateway."""
        return next(
            str(one["machine"])
            for one in self.cluster()["engines"]
            if one["model"] == model and one["in_flight"]
        )

    def machine_of(self, name: str) -> str:
        return next(str(one["machine"]) for one in self.cluster()["engines"] if one["name"] == name)

    async def until(self, condition: Callable[[], object], seconds: float = 40.0) -> float:
        """Wait for it. Returns how long that took."""
        began = time.monotonic()
        while not await asyncio.to_thread(condition):
            if time.monotonic() > began + seconds:
                pytest.fail(f"waited in vain: {self.cluster()}")
            await asyncio.sleep(0.05)
        return time.monotonic() - began


@contextmanager
def running_gateway(cluster: RayCluster, folder: Path, text: str) -> Iterator[Gateway]:
    """One with this configuration, which may have run in this folder before."""
    folder.mkdir(exist_ok=True)
    (folder / "reverie.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in cluster.environ.items():
            patched.setenv(name, value)
        patched.setenv("REVERIE_ADMIN_KEY", ADMIN_KEY)
        with serving(folder) as server:
            yield Gateway(server)


class Answer(NamedTuple):
    """What one client got."""

    text: str
    finish: str
    """The reason that the end of the stream gave; empty if it broke off."""
    gap: float
    """The longest time from one piece to the next, in seconds."""


class Streams:
    """Answers that clients read while something happens: ``async with`` ends when all are read.

    Args:
        gateways: clients go to one after the other.
        keys: what each client sends as its ``Idempotency-Key``.
    """

    def __init__(
        self,
        gateways: Sequence[Gateway],
        number: int = 20,
        *,
        model: str = "m",
        words: int = WORDS,
        keys: Sequence[str] = (),
    ) -> None:
        self.answers: list[Answer] = []
        self._urls = [one.url for one in gateways]
        self._number = number
        self._body = {"model": model, "max_tokens": words, "temperature": 0, "stream": True}
        self._keys = keys
        self._whole = (text_of(words), "length")
        self._began = 0
        self._tasks: list[asyncio.Task[Answer]] = []
        self._http: aiohttp.ClientSession

    @property
    def broken(self) -> list[Answer]:
        """Those that aren't as if nothing had happened."""
        return [one for one in self.answers if (one.text, one.finish) != self._whole]

    @property
    def gap(self) -> float:
        """The longest that any client waited for its next piece."""
        return max(one.gap for one in self.answers)

    def of_gateway(self, index: int) -> list[Answer]:
        return self.answers[index :: len(self._urls)]

    async def __aenter__(self) -> Streams:
        """Returns once all are being read."""
        self._begin()
        try:
            async with asyncio.timeout(30):
                while self._began < self._number:
                    await asyncio.sleep(0.01)
        except BaseException:
            await self.__aexit__(True)
            raise
        return self

    async def __aexit__(self, failure: object, *_: object) -> None:
        try:
            if failure is None:
                async with asyncio.timeout(60):
                    self.answers = await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._http.close()

    def _begin(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._http = aiohttp.ClientSession(connector=connector)
        ways = itertools.product(("/llm", "/v1/chat/completions"), self._urls)
        asked = itertools.islice(itertools.cycle(ways), self._number)
        self._tasks = [
            asyncio.create_task(self._read(url + path, number))
            for number, (path, url) in enumerate(asked)
        ]

    async def _read(self, url: str, number: int) -> Answer:
        # A conversation of its own, so that not all are drawn to one engine.
        body = {**self._body, "messages": [{"role": "user", "content": f"Story {number}"}]}
        headers = {"Idempotency-Key": self._keys[number]} if self._keys else {}
        text, finish, gap, last = "", "", 0.0, 0.0
        try:
            async with self._http.post(url, json=body, headers=headers) as response:
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    choices = json.loads(line[6:])["choices"]
                    if not choices:
                        continue
                    now = time.monotonic()
                    if piece := choices[0]["delta"].get("content"):
                        self._began += not text
                        gap, last = max(gap, now - last) if text else 0.0, now
                        text += piece
                    finish = choices[0]["finish_reason"] or ""
        except aiohttp.ClientError as error:
            return Answer(text, f"{type(error).__name__}", gap)
        return Answer(text, finish, gap)


def engines_of(cluster: RayCluster) -> list[Process]:
    """All engines' processes of a cluster, and their actors'."""
    return [one for machine in cluster.machines for one in (*machine.actors, *machine.engines)]
