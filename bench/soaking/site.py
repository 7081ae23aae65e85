"""What is soaked: a PostgreSQL, engines, and two gateways that share both, as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from cpus import tree
from servers import free_port

from reverie.store.database.schema import ROWS_OF_A_GATEWAY
from reverie.store.limits import RateLimits
from reverie.testing.tasks import SIZE
from soaking.book import Limits, Row
from soaking.processes import Process, reverie
from tests.faults.ledger_tools import add_key, store_at
from tests.postgres import Postgres

ADMIN_KEY = "the-admin-key-of-the-soak"
ENGINES = 3
VECTOR = SIZE
PRICE = 'price = { input = "0.1USD", cached = "0.05USD", output = "0.2USD" }'
_BENCH = Path(__file__).parents[1]

OPERATOR = "operator"
"""Whoever asks whether a gateway is up; no client of the soak's."""
KEYS: dict[str, Limits] = {
    "alice": Limits(rpm=10_000_000, tpm=1_000_000_000),
    "bob": Limits(),
    OPERATOR: Limits(),
    "by requests": Limits(rpm=20),
    "by tokens": Limits(tpm=2_000),
    "by concurrency": Limits(concurrency=1),
    "by money": Limits(budget=3_000_000),
}
"""The callers, and what they may use."""
LIMITED = tuple(name for name in KEYS if name.startswith("by "))
_SETTINGS = """\
[server]
port = {port}
ollama = true
log_format = "json"
body_timeout = 3
first_token_timeout = 4
stall_timeout = 4
queue_timeout = 10
resume_grace = 3
write_timeout = 10
drain_timeout = 20
[store]
url = "{store}"
timeout = 6
kept_answers_mib = 16
"""
_COLUMNS = ", ".join(
    "COALESCE(keys.name, ledger.key_id)" if name == "key" else f"ledger.{name}"
    for name in Row._fields
)
_BAD_BACKENDS = "reverie_backend_state{"
_BAD_STATE = re.compile('state="(open|half_open)"')
_GOOD_BACKENDS = ("reverie_backend_ready{", "reverie_backend_probe_ok{")
SUMMED = (
    *("requests", "cancelled", "failed", "lost"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "cost"),
)
"""The ledger's daily sums."""
_OVERLAP = 1000
"""Row numbers that are read again, should their transactions not have ended in their order."""


class Engine:
    """An engine's process, and the ports of what it says quickly, slowly, and by calling tools."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"engine {number}"
        self.ports = [free_port() for _ in range(3)]
        path = os.pathsep.join([str(_BENCH), os.environ.get("PYTHONPATH", "")])
        self.process = Process(
            (sys.executable, "-m", "soaking.engine", *map(str, self.ports)),
            folder / f"engine-{number}.log",
            says="listening",
            env={"PYTHONPATH": path},
        )

    def fail(self, count: int, **fields: Any) -> None:
        """Have the next requests of each kind fail as a script says."""
        self.process.tell(json.dumps({"fault": fields, "count": count}))

    def be_well(self) -> None:
        self.process.tell("{}")

    @property
    def quick(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/v1"

    @property
    def slow(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}/v1"

    @property
    def caller(self) -> str:
        return f"http://127.0.0.1:{self.ports[2]}/v1"


class Gateway:
    """A gateway, its configuration and its state."""

    def __init__(self, name: str, workers: int, folder: Path, store: str, real: str) -> None:
        self.name = name
        self.workers = workers
        self.folder = folder / f"gateway-{name}"
        self.state = self.folder / "state"
        self.temporary = self.folder / "tmp"
        for made in (self.folder, self.state, self.temporary):
            made.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests = 0
        """That clients sent it."""
        self._store = store
        self._real = real
        self._config = self.folder / "reverie.toml"
        command = reverie("serve", "--config", str(self._config), "--workers", str(workers))
        self.process = Process(
            command,
            folder / f"gateway-{name}.log",
            says=" at http://",
            env={
                "REVERIE_ADMIN_KEY": ADMIN_KEY,
                "REVERIE_API_KEYS": "",
                "XDG_STATE_HOME": str(self.state),
                "TMPDIR": str(self.temporary),
            },
        )

    @property
    def pids(self) -> list[int]:
        """Its process, and its workers' if it has any."""
        if not self.process.running:
            return []
        all_pids = tree(self.process.pid)
        return [pid for pid in all_pids if pid == all_pids[0] or _is_worker(pid)]

    def configure(self, engines: Iterable[Engine], *, extra: bool) -> None:
        """Write the configuration.

        Args:
            extra: with one more model, and one more backend of another.
        """
        one, two, three = engines
        models = [
            ("m", [one.quick, two.quick, *([three.quick] if extra else [])], "default = true"),
            ("slow", [two.slow, three.slow, one.slow], ""),
            ("caller", [three.caller, one.caller], ""),
            ("vectors", [one.quick, three.quick], 'task = "embed"'),
        ]
        if extra:
            models.append(("extra", [two.quick, three.quick], ""))
        text = _SETTINGS.format(port=self.port, store=self._store)
        for name, urls, more in models:
            text += f'[[models]]\nname = "{name}"\n{PRICE}\n{more}\n'
            for url in urls:
                text += f'[[models.backends]]\nurl = "{url}"\nkind = "vllm"\nslots = 32\n'
        self._config.write_text(text + self._real)


def _is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"reverie.workers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Site:
    """All of it, and its operator's tools.

    Args:
        real: whether the first gateway also runs the default model.
    """

    def __init__(self, folder: Path, postgres: Postgres, *, real: bool) -> None:
        self.folder = folder
        self.postgres = postgres
        self.engines = [Engine(number, folder) for number in range(1, ENGINES + 1)]
        embedded = '[[models]]\nname = "real"\nsource = "smollm2-135m"\n' + PRICE + "\n"
        store = postgres.url
        self.gateways = [
            Gateway("one", 1, folder, store, embedded if real else ""),
            Gateway("two", 2, folder, store, ""),
        ]
        self.real = real
        self._processes = [one.process for one in self.engines]
        self._processes += [one.process for one in self.gateways]
        self.secrets: dict[str, str] = {}
        self._last: dict[int, int] = {}
        self._seen: set[int] = set()
        self._http: aiohttp.ClientSession

    async def start(self) -> None:
        async with store_at(self.postgres.url) as store:
            for name, limits in KEYS.items():
                self.secrets[name] = add_key(
                    store,
                    name,
                    limits=RateLimits(
                        rpm=limits.rpm, tpm=limits.tpm, concurrency=limits.concurrency
                    ),
                    budget=limits.budget,
                    budget_period=limits.budget and "day",
                    currency=limits.budget and "USD",
                )
        connector = aiohttp.TCPConnector(force_close=True)
        self._http = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=20)
        )
        await asyncio.gather(*(engine.process.start() for engine in self.engines))
        for gateway in self.gateways:
            gateway.configure(self.engines, extra=False)
            await gateway.process.start()

    async def stop_gateways(self) -> list[str]:
        """End them as an operator does; give what is wrong with how they ended."""
        found = []
        for gateway in self.gateways:
            if (status := await gateway.process.end()) != 0:
                found.append(f"gateway {gateway.name} ended with status {status}")
        return found

    async def close(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(AttributeError):
            await self._http.close()
        for process in self._processes:
            await process.kill()

    # The operator ---------------------------------------------------------------------------

    async def admin(self, gateway: Gateway, path: str) -> Any:
        """What a gateway's admin API tells."""
        return await self._ask(gateway, "GET", path, None)

    async def post(self, gateway: Gateway, path: str, **body: Any) -> Any:
        """Have a gateway do something."""
        return await self._ask(gateway, "POST", path, body or None)

    async def _ask(self, gateway: Gateway, method: str, path: str, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        url = f"{gateway.url}/admin/v1/{path}"
        async with self._http.request(method, url, json=body, headers=headers) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def metrics(self, gateway: Gateway) -> dict[str, float]:
        """The samples of ``/metrics``, by name and labels as they are written."""
        async with self._http.get(f"{gateway.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    async def all_backends_ready(self) -> bool:
        """Whether both gateways, and each of their workers, use every engine."""
        for gateway in self.gateways:
            for name, value in (await self.metrics(gateway)).items():
                if name.startswith(_BAD_BACKENDS) and _BAD_STATE.search(name) and value:
                    return False
                if name.startswith(_GOOD_BACKENDS) and not value:
                    return False
        return True

    async def answers(self, gateway: Gateway) -> bool:
        """Whether it answers somebody's request: it and the store are up."""
        body = {"messages": [{"role": "user", "content": "probe"}], "max_tokens": 1}
        headers = {"Authorization": f"Bearer {self.secrets[OPERATOR]}"}
        async with self._http.post(f"{gateway.url}/llm", json=body, headers=headers) as answer:
            await answer.read()
            return answer.status == 200

    # The ledger -----------------------------------------------------------------------------

    def read_ledger(self, unsettled: Iterable[int]) -> list[Row]:
        """Rows that came since the last time, and those that were unsettled. Blocks."""
        rows: dict[int, Row] = {}
        with psycopg.connect(self.postgres.url, connect_timeout=10) as connection:
            gateways = connection.execute("SELECT id FROM gateways").fetchall()
            chosen = (
                f"SELECT {_COLUMNS} FROM ledger LEFT JOIN keys ON keys.id = ledger.key_id WHERE "
            )
            for (gateway,) in gateways:
                first = gateway * ROWS_OF_A_GATEWAY
                after = max(self._last.get(gateway, 0) - _OVERLAP, first)
                found = connection.execute(
                    chosen + "ledger.id > %s AND ledger.id < %s", (after, first + ROWS_OF_A_GATEWAY)
                )
                for values in found:
                    row = Row(*values)
                    if row.id not in self._seen:
                        rows[row.id] = row
                        self._last[gateway] = max(self._last.get(gateway, 0), row.id)
            again = connection.execute(chosen + "ledger.id = ANY(%s)", (list(unsettled),))
            rows |= {values[0]: Row(*values) for values in again}
        self._seen = {one for one in (*self._seen, *rows) if one > self._last[one >> 40] - _OVERLAP}
        return [row for row in rows.values() if row.key != OPERATOR]

    def daily(self) -> dict[str, dict[str, int]]:
        """The ledger's own sums, by key. Blocks."""
        sums = ", ".join(f"SUM({name})::bigint" for name in SUMMED)
        with psycopg.connect(self.postgres.url, connect_timeout=10) as connection:
            rows = connection.execute(
                f"SELECT COALESCE(keys.name, key_id), {sums} FROM usage_daily "
                "LEFT JOIN keys ON keys.id = key_id GROUP BY 1"
            ).fetchall()
        return {row[0]: dict(zip(SUMMED, row[1:], strict=True)) for row in rows}


@contextlib.asynccontextmanager
async def site(folder: Path, *, real: bool) -> AsyncIterator[Site]:
    """A site that is running."""
    postgres = Postgres()
    await asyncio.to_thread(postgres.__enter__)
    try:
        one = Site(folder, postgres, real=real)
        try:
            await one.start()
            yield one
        finally:
            await one.close()
    finally:
        await asyncio.to_thread(postgres.close)
