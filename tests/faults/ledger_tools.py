"""Gateways that can be killed, their clients, and the book-keeping that is held against both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import Row, select

from reverie.settings import StoreSettings
from reverie.store import keys
from reverie.store.database import schema
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.store.keys import Key
from reverie.testing import ScriptedEngine
from reverie.times import now_ms
from tests.faults import ledger_nursery

_READY = re.compile(r"^Reverie is ready .* at (http://\S+)$", re.MULTILINE)
_PATIENCE = 60.0
"""Seconds after which a test gives up waiting for what must happen."""


# Gateways ---------------------------------------------------------------------------------


class Gateway:
    """A process that runs ``reverie serve``."""

    def __init__(self, pid: int, log: Path, ended: asyncio.Future[int]) -> None:
        self.pid = pid
        self.log = log
        self._ended = ended
        self.url = ""

    @property
    def running(self) -> bool:
        return not self._ended.done()

    @property
    def said(self) -> str:
        """Its output so far, log lines included."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    async def ready(self) -> str:
        """Wait until it serves; give its URL."""
        async with asyncio.timeout(_PATIENCE):
            while (found := _READY.search(self.said)) is None:
                assert self.running, f"it ended at start: {self.said}"
                await asyncio.sleep(0.01)
        self.url = found[1]
        return self.url

    async def kill(self) -> None:
        """``kill -9``."""
        self._send(signal.SIGKILL)
        await self._end()

    async def stop(self) -> None:
        """Ask it to end, and wait; it must end well."""
        self._send(signal.SIGTERM)
        assert await self._end() == 0, self.said

    def _send(self, number: signal.Signals) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def _end(self) -> int:
        async with asyncio.timeout(_PATIENCE):
            return await asyncio.shield(self._ended)


class Nursery:
    """Starts gateways; see ``ledger_nursery``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._starting: list[asyncio.Future[int]] = []

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            ledger_nursery.__file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"XDG_STATE_HOME": str(self._folder / "state")},
            start_new_session=True,  # Ctrl-C is told by the end of its input
        )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n"
        self._reading = asyncio.create_task(self._read(self._process.stdout))

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def start(
        self,
        config: Path,
        *,
        limits: Mapping[str, int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Gateway:
        """Start a gateway; it is not ready yet.

        Args:
            limits: the most of a resource that it may use, as ``{"RLIMIT_FSIZE": 4096}``.
        """
        log = self._folder / f"gateway-{next(self._numbers)}.log"
        order = {
            "arguments": ["serve", "--config", str(config)],
            "environment": dict(environment or {}),
            "log": str(log),
            "limits": dict(limits or {}),
        }
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting.append(started)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        pid = await started
        return Gateway(pid, log, self._ends[pid])

    async def ready(self, config: Path, **options: Any) -> Gateway:
        """Start a gateway and wait until it serves."""
        gateway = await self.start(config, **options)
        await gateway.ready()
        return gateway

    async def _read(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            what, pid, *status = line.decode().split()
            if what == "started":
                self._ends[int(pid)] = asyncio.get_running_loop().create_future()
                self._starting.pop(0).set_result(int(pid))
            else:
                self._ends.pop(int(pid)).set_result(int(status[0]))


@asynccontextmanager
async def nursery(folder: Path) -> AsyncIterator[Nursery]:
    """A nursery, whose gateways' journals and logs are in the folder."""
    opened = Nursery(folder)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


def write_config(
    file: Path,
    store: str,
    engine: ScriptedEngine,
    *,
    server: Mapping[str, Any] | None = None,
    accounts: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    price: Mapping[str, str] | None = None,
    backend: Mapping[str, Any] | None = None,
) -> Path:
    """A gateway's configuration: any port, one store, one model ``m`` on one engine."""
    sections = (
        ("[server]", {"port": 0, **(server or {})}),
        ("[store]", {"url": store, **(accounts or {})}),
        ("[[models]]", {"name": "m", **(model or {})}),
        ("[models.price]", price or {}),
        ("[[models.backends]]", {"url": engine.url, **(backend or {})}),
    )
    lines = []
    for header, values in sections:
        lines += [header, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    file.write_text("\n".join(lines) + "\n")
    return file


# Clients ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """What a client saw of one request."""

    name: str
    """Its request id."""
    said: str
    """What it said to the model: its name, or its ``Idempotency-Key``."""
    status: int | None = None
    """None: no answer began."""
    whole: bool = False
    """A whole JSON body with status 200, or a stream up to ``[DONE]``."""
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    error: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class Client:
    """Sends requests, each with a name of its own, and notes what comes back."""

    def __init__(self, http: aiohttp.ClientSession, prefix: str, secret: str | None = None) -> None:
        self._http = http
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._secret = secret
        self.answers: list[Answer] = []

    def new_name(self) -> str:
        return f"{self._prefix}-{next(self._numbers):05}"

    async def ask(
        self,
        url: str,
        *,
        stream: bool = False,
        path: str = "/llm",
        max_tokens: int = 64,
        leave_after: float | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Send one request.

        Args:
            leave_after: seconds after which to break off.
        """
        name = self.new_name()
        answer = Answer(name, idempotency_key or name)
        self.answers.append(answer)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
            async with asyncio.timeout(leave_after):
                await self._exchange(url + path, answer, stream, max_tokens)
        return answer

    async def _exchange(self, url: str, answer: Answer, stream: bool, max_tokens: int) -> None:
        headers = {"X-Request-Id": answer.name}
        if answer.said != answer.name:
            headers["Idempotency-Key"] = answer.said
        if self._secret is not None:
            headers["Authorization"] = f"Bearer {self._secret}"
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": answer.said}],
            "max_tokens": max_tokens,
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        async with self._http.post(url, json=body, headers=headers) as response:
            answer.status = response.status
            answer.headers = response.headers
            if response.content_type == "text/event-stream":
                await self._read_stream(response, answer)
                return
            read = await response.json()
            _note(read, answer)
            answer.whole = response.status == 200

    @staticmethod
    async def _read_stream(response: aiohttp.ClientResponse, answer: Answer) -> None:
        async for line in response.content:
            if line == b"data: [DONE]\n":
                answer.whole = True
            elif line.startswith(b"data: "):
                _note(json.loads(line.removeprefix(b"data: ")), answer)


def _note(read: dict[str, Any], answer: Answer) -> None:
    answer.usage = read.get("usage") or answer.usage
    answer.error = read.get("error") or answer.error
    for choice in read.get("choices", ()):
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason


@asynccontextmanager
async def http_client() -> AsyncIterator[aiohttp.ClientSession]:
    """For as many requests at once as a test likes, each on a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


# The store --------------------------------------------------------------------------------


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Store]:
    """The store itself, brought to this version."""
    store = Store(StoreSettings(url=url, timeout=30))
    await asyncio.to_thread(migrate, store)
    try:
        yield store
    finally:
        store.close()


def add_key(store: Store, name: str, **settings: Any) -> str:
    """Make a key; give its secret."""
    secret = keys.new_secret()
    key = Key(**{"id": keys.new_id(), "name": name, "created_at": now_ms(), **settings})
    with store.write() as connection:
        keys.create(connection, key, secret)
    return secret


def rows_of(store: Store) -> Sequence[Row[Any]]:
    """The whole ledger."""
    with store.read() as connection:
        return connection.execute(select(schema.ledger).order_by(schema.ledger.c.id)).all()


def daily_sums(store: Store) -> dict[tuple[str, int, str, str], Counter[str]]:
    """``usage_daily``, by its key; figures that are 0 are left out."""
    names = [column.name for column in schema.usage_daily.columns if not column.primary_key]
    with store.read() as connection:
        rows = connection.execute(select(schema.usage_daily)).all()
    return {
        (row.key_id, row.day, row.model, row.currency): +Counter(
            {name: getattr(row, name) for name in names}
        )
        for row in rows
    }


def sums_of(rows: Sequence[Row[Any]]) -> dict[tuple[str, int, str, str], Counter[str]]:
    """What ``usage_daily`` must say of these rows of the ledger."""
    days: dict[tuple[str, int, str, str], Counter[str]] = {}
    for row in rows:
        if row.outcome is None:
            continue
        key = (row.key_id, row.created_at // 86_400_000, row.model, row.currency)
        day = days.setdefault(key, Counter())
        day["requests"] += 1
        if row.outcome in ("cancelled", "failed", "lost"):
            day[row.outcome] += 1
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost"):
            day[name] += getattr(row, name)
    return {key: +day for key, day in days.items()}


# Accounts against what happened -----------------------------------------------------------


def assert_accounts_are_true(
    store: Store, answers: Sequence[Answer], engine: ScriptedEngine
) -> None:
    """Hold the ledger against what the clients saw and what the engine was asked."""
    rows = rows_of(store)
    by_name = {row.request_id: row for row in rows}
    assert len(by_name) == len(rows), "a request was counted twice"
    assert [row.request_id for row in rows if row.outcome is None] == [], "open rows"
    assert daily_sums(store) == sums_of(rows)
    by_said: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_said.setdefault(row.idempotency_key or row.request_id, []).append(row)
    _assert_is_accounted(engine, by_said)
    for answer in answers:
        if answer.whole:
            _assert_is_counted(answer, by_said.get(answer.said, []))
        elif answer.status not in (200, None) and answer.name in by_name:
            assert by_name[answer.name].outcome not in ("ok", "length"), answer


def _assert_is_accounted(engine: ScriptedEngine, by_said: dict[str, list[Row[Any]]]) -> None:
    """Nothing reached the engine without a row, and no row has tokens that were never made."""
    made: dict[str, list[int]] = {}
    for recorded in engine.requests:
        made.setdefault(recorded.body["messages"][-1]["content"], []).append(recorded.sent)
    for said, rows in by_said.items():
        counts = sorted((row.completion_tokens for row in rows), reverse=True)
        for count, most in zip_longest(
            counts, sorted(made.get(said, ()), reverse=True), fillvalue=0
        ):
            assert count <= most, f"{said} pays for what never was"
    for said, answers in made.items():
        assert len(answers) <= len(by_said.get(said, ())), f"{said} ran without a row"


def _assert_is_counted(answer: Answer, rows: Sequence[Row[Any]]) -> None:
    """A client that saw a whole answer finds it in the ledger, once, as it was."""
    complete = [row for row in rows if row.outcome in ("ok", "length")]
    assert len(complete) == 1, f"{answer.said} was answered, and is there {len(complete)} times"
    (row,) = complete
    expected = "length" if answer.finish_reason == "length" else "ok"
    counted = (row.outcome, row.prompt_tokens, row.completion_tokens)
    told = (expected, answer.usage["prompt_tokens"], answer.usage["completion_tokens"])
    assert counted == told, answer.name
    assert (
        row.cost == row.prompt_tokens * row.price_input + row.completion_tokens * row.price_output
    )
