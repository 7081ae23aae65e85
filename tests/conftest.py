"""A whole Reverie, in this process, on a free port, over scripted engines."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import pytest

from reverie.app import Application
from reverie.cluster.link import Link
from reverie.server import Server, listen
from reverie.settings import Settings, StoreSettings
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway

pytest_plugins = ["tests.leaks", "tests.markers", "tests.ordering", "tests.postgres"]

# How long an example takes says what else the machine does.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def _children_have_default_signals() -> None:
    """Under ``nohup``, and in a script's background, this process ignores these signals. A process
    that a test starts would inherit that; what is handled starts with the default instead.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def _state_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and what they start, out of the state directory of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store that has been brought to this version's schema, to be copied."""
    file = tmp_path_factory.mktemp("store") / "empty.db"
    store = Store(StoreSettings(url=f"sqlite:///{file}"))
    migrate(store)
    store.close()
    return file


@pytest.fixture
async def start_gateway(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StartGateway]:
    """Start servers: ``await start_gateway(engine, …, server={…}, environ={…}, models=[…])``.

    They share one store, in this test's folder, unless another is given.
    """
    from tests import leaks  # a plugin, whose assertions are rewritten when pytest imports it

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "reverie.db"
    shutil.copy(empty_store, file)
    async with AsyncExitStack() as stack:

        async def start(
            *engines: ScriptedEngine,
            server: Mapping[str, Any] | None = None,
            environ: Mapping[str, str] | None = None,
            models: list[dict[str, Any]] | None = None,
            backend: Mapping[str, Any] | None = None,
            store: Mapping[str, Any] | None = None,
            model: Mapping[str, Any] | None = None,
            cluster: Mapping[str, Any] | None = None,
            traces: Mapping[str, Any] | None = None,
            link: Link | None = None,
        ) -> Gateway:
            backends = [{"url": engine.url, **(backend or {})} for engine in engines]
            written: dict[str, Any] = {
                "server": {"port": 0, **(server or {})},
                "store": {"url": f"sqlite:///{file}", **(store or {})},
                "models": models
                or [{"name": "m", "aliases": ["alias"], "backends": backends, **(model or {})}],
            }
            if cluster is not None:
                written["cluster"] = dict(cluster)
            if traces is not None:
                written["traces"] = dict(traces)
            settings = Settings.model_validate(written)
            leaks.register_environment(environ or {})
            leaks.register_url(settings.store.url)
            app = Application(
                settings,
                environ=environ or {},
                read_settings=lambda: gateway.read(),
                link=None if link is None else lambda _: link,
            )
            listener = listen(settings.server.host, settings.server.port)
            await app.start()
            serving = Server(app, on_ready=lambda: None)
            task = asyncio.create_task(serving.run_on(listener))

            async def stop() -> None:
                serving.stop()
                serving.stop()
                await task
                listener.close()

            stack.push_async_callback(stop)
            gateway = Gateway(app, serving, f"http://127.0.0.1:{listener.getsockname()[1]}")
            gateway.written = written
            # The server closes a connection one second after a stream that broke on it.
            connector = aiohttp.TCPConnector(keepalive_timeout=0.5)
            gateway.http = await stack.enter_async_context(
                aiohttp.ClientSession(connector=connector)
            )
            await gateway.until(lambda: serving.started)
            return gateway

        yield start


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine(Script(tokens=("Hello", " world"))) as scripted:
        yield scripted


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine)
