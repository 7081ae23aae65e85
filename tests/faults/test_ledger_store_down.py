"""The store goes, hangs, is locked or full under load: nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from reverie.testing import Script, ScriptedEngine
from tests.faults.ledger_tools import (
    Answer,
    Client,
    Gateway,
    Nursery,
    add_key,
    assert_accounts_are_true,
    http_client,
    nursery,
    rows_of,
    store_at,
    write_config,
)
from tests.postgres import Postgres

TIMEOUT = 1.0
"""Seconds that a gateway waits for the store."""
OUTAGE = 10.0
RUNNING = 6
"""Streams that are under way when the store goes."""
COMING = 4
"""Clients that ask and ask."""
PATIENCE = 60.0


class Scene:
    """A gateway on a store that will fail, its engine, and its clients."""

    def __init__(self, nest: Nursery, config: Path, http: aiohttp.ClientSession) -> None:
        self._nest = nest
        self._config = config
        self._http = http
        self._over = False
        self._asking: list[asyncio.Task[None]] = []
        self._streams: list[asyncio.Task[Answer]] = []
        self._clients: list[Client] = []
        self.engine: ScriptedEngine
        self.gateway: Gateway
        self.secret: str

    @property
    def answers(self) -> list[Answer]:
        return [answer for client in self._clients for answer in client.answers]

    @property
    def journals(self) -> list[Path]:
        return list((self._config.parent / "state").rglob("*.jsonl"))

    def client(self, name: str) -> Client:
        self._clients.append(Client(self._http, name, self.secret))
        return self._clients[-1]

    async def start_gateway(self) -> None:
        self.gateway = await self._nest.ready(self._config)

    async def begin(self) -> None:
        """Have streams stand in the middle of their answers, while other requests come and go."""
        await self.start_gateway()
        self.engine.script = Script(tokens=("token ",) * 8, stall_after=3)
        client, url = self.client("under-way"), self.gateway.url
        self._streams = [asyncio.create_task(client.ask(url, stream=True)) for _ in range(RUNNING)]
        await self.engine.wait_for(lambda e: e.stalled == RUNNING, timeout=PATIENCE)
        self.engine.script = Script(tokens=("token ",) * 4, delay=0.005)
        self._asking = [
            asyncio.create_task(self._keep_asking(self.client(f"coming-{n}")))
            for n in range(COMING)
        ]
        await self.all_is_well()

    async def finish_streams(self) -> Sequence[Answer]:
        """Let the streams go on to their ends."""
        self.engine.resume()
        return await asyncio.gather(*self._streams)

    async def new_requests(self) -> list[Answer]:
        """What a new request gets, of each kind; each must have an answer in good time."""
        client, url = self.client("new"), self.gateway.url
        patience = TIMEOUT + 10
        return [
            await client.ask(url, stream=stream, leave_after=patience) for stream in (True, False)
        ]

    async def all_is_well(self) -> None:
        """Wait until every client that keeps asking has been answered once more."""
        coming = self._clients[1 : 1 + COMING]
        seen = [len(client.answers) for client in coming]
        async with asyncio.timeout(PATIENCE):
            while not all(
                any(answer.whole for answer in client.answers[before:])
                for client, before in zip(coming, seen, strict=True)
            ):
                await asyncio.sleep(0.05)

    async def end_load(self) -> None:
        self._over = True
        await asyncio.gather(*self._asking, *self._streams)

    async def _keep_asking(self, client: Client) -> None:
        while not self._over:
            stream = len(client.answers) % 2 == 0
            if not (await client.ask(self.gateway.url, stream=stream)).whole:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def scene_on(url: str, folder: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ScriptedEngine())
        http = await stack.enter_async_context(http_client())
        nest = await stack.enter_async_context(nursery(folder))
        config = write_config(folder / "reverie.toml", url, engine, accounts={"timeout": TIMEOUT})
        scene = Scene(nest, config, http)
        scene.engine = engine
        async with store_at(url) as store:
            scene.secret = add_key(store, "tested")
        yield scene
        await scene.end_load()


def assert_refused_for_now(answers: Sequence[Answer]) -> None:
    for answer in answers:
        assert (answer.status, answer.error.get("code")) == (503, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1


async def assert_all_is_counted(scene: Scene, url: str) -> None:
    """Stop the gateway, and hold its accounts against what was seen."""
    await scene.end_load()
    await scene.gateway.stop()
    assert scene.journals == []
    async with store_at(url) as store:
        assert_accounts_are_true(store, scene.answers, scene.engine)


@pytest.fixture(params=["stopped", "paused"])
def outage(
    request: pytest.FixtureRequest, own_postgres: Postgres
) -> tuple[Callable[[], None], Callable[[], None]]:
    """How a PostgreSQL goes, and how it comes back."""
    if request.param == "stopped":
        return own_postgres.stop, own_postgres.start
    return own_postgres.pause, own_postgres.resume


Outage = tuple[Callable[[], None], Callable[[], None]]


@pytest.mark.slow
async def test_a_gateway_outlives_its_database_and_accounts_for_everything_later(
    own_postgres: Postgres, outage: Outage, tmp_path: Path
) -> None:
    go, come_back = outage
    async with scene_on(own_postgres.url, tmp_path) as scene:
        await scene.begin()
        await asyncio.to_thread(go)
        over = asyncio.create_task(asyncio.sleep(OUTAGE))
        assert all(answer.whole for answer in await scene.finish_streams())
        assert scene.journals != []
        while not over.done():
            assert_refused_for_now(await scene.new_requests())
        await asyncio.to_thread(come_back)
        await scene.all_is_well()
        assert scene.gateway.running
        await assert_all_is_counted(scene, own_postgres.url)


async def test_a_journal_left_by_a_gateway_that_died_with_its_database_down_is_not_lost(
    own_postgres: Postgres, outage: Outage, tmp_path: Path
) -> None:
    go, come_back = outage
    async with scene_on(own_postgres.url, tmp_path) as scene:
        await scene.begin()
        await asyncio.to_thread(go)
        streams = await scene.finish_streams()
        assert all(answer.whole for answer in streams)
        await scene.gateway.kill()
        await scene.end_load()
        assert scene.journals != []
        await asyncio.to_thread(come_back)
        await scene.start_gateway()
        await assert_all_is_counted(scene, own_postgres.url)


@pytest.mark.slow
async def test_a_gateway_can_be_stopped_while_its_database_is_away(
    own_postgres: Postgres, outage: Outage, tmp_path: Path
) -> None:
    go, come_back = outage
    async with scene_on(own_postgres.url, tmp_path) as scene:
        await scene.begin()
        await asyncio.to_thread(go)
        assert all(answer.whole for answer in await scene.finish_streams())
        await scene.end_load()
        await scene.gateway.stop()
        await asyncio.to_thread(come_back)
        await scene.start_gateway()
        await assert_all_is_counted(scene, own_postgres.url)


async def test_a_sqlite_file_that_another_program_locks_holds_nothing_up_for_long(
    tmp_path: Path,
) -> None:
    file = tmp_path / "reverie.db"
    async with scene_on(f"sqlite:///{file}", tmp_path) as scene:
        await scene.begin()
        with contextlib.closing(sqlite3.connect(file, timeout=PATIENCE)) as other:
            other.isolation_level = None
            other.execute("BEGIN EXCLUSIVE")
            assert all(answer.whole for answer in await scene.finish_streams())
            assert_refused_for_now(await scene.new_requests())
            other.execute("ROLLBACK")
        await scene.all_is_well()
        await assert_all_is_counted(scene, f"sqlite:///{file}")


@contextlib.contextmanager
def full_disk(gateway: Gateway, size: int) -> Generator[None, None, None]:
    """Let a gateway write no file beyond a size, as if the disk were full there."""
    before = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, before)


async def test_a_store_that_is_full_leaves_it_to_the_journal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/reverie.db"
    async with scene_on(url, tmp_path) as scene:
        await scene.begin()
        size = 64 * 1024
        async with asyncio.timeout(PATIENCE):
            while (tmp_path / "reverie.db-wal").stat().st_size <= size:
                await asyncio.sleep(0.01)
        with full_disk(scene.gateway, size):
            assert all(answer.whole for answer in await scene.finish_streams())
            assert_refused_for_now(await scene.new_requests())
        await scene.all_is_well()
        await assert_all_is_counted(scene, url)


async def test_with_no_room_for_a_journal_no_answer_looks_complete_and_none_is_charged(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/reverie.db"
    async with scene_on(url, tmp_path) as scene:
        await scene.begin()
        with full_disk(scene.gateway, 0):
            streams = await scene.finish_streams()
            assert [answer.whole for answer in streams] == [False] * RUNNING
            assert {answer.error["code"] for answer in streams} == {"overloaded"}
            assert_refused_for_now(await scene.new_requests())
        await scene.all_is_well()
        await assert_all_is_counted(scene, url)
        async with store_at(url) as store:
            outcomes = {row.request_id: row.outcome for row in rows_of(store)}
        assert {outcomes[answer.name] for answer in streams} == {"failed"}
