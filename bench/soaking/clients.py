"""The clients: what they ask, how they behave, and what they note of each answer."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from reverie.testing.tasks import vector
from soaking import dialects, texts
from soaking.book import Answer, Book, Work
from soaking.dialects import Ask, Dialect, Told
from soaking.exchange import Exchange, read_answer
from soaking.faults import FaultLog
from soaking.site import ADMIN_KEY, LIMITED, Gateway, Site

_MOST_AT_ONCE = 150
_TRIES = 12
_PAGES = (
    "/metrics",
    "/health",
    "/readyz",
    "/v1/models",
    "/v1/usage",
    "/",
    "/admin/v1/requests?limit=50",
    "/admin/v1/live",
    "/admin/v1/usage",
    "/admin/v1/models",
)
_GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /llm HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST /llm HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"hello\r\n\r\n" * 5,
)


class Crowd:
    """Clients of a site, each of which does one thing and goes."""

    def __init__(self, site: Site, book: Book, faults: FaultLog, seed: int) -> None:
        self.ends: Counter[str] = Counter()
        """How exchanges ended."""
        self.kinds: Counter[str] = Counter()
        self.tokens = 0
        """Of whole answers."""
        self.untrue: list[str] = []
        """Answers that say something else than the engines did."""
        self.problems: list[str] = []
        """Everything else that isn't as it should be."""
        self.held_back = 0
        """Clients who didn't come because there were too many at once."""
        self._site = site
        self._book = book
        self._faults = faults
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._sessions: list[aiohttp.ClientSession] = []
        self._slow: aiohttp.ClientSession
        self._does: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._asks, 50),
            (self._leaves, 8),
            (self._retries, 8),
            (self._resumes, 6),
            (self._embeds, 8),
            (self._goes_to_its_limit, 10),
            (self._reads_slowly, 1),
            (self._sends_garbage, 2),
            (self._sends_a_wrong_body, 2),
            (self._trickles, 1),
            (self._looks, 4),
        ]

    @property
    def requests(self) -> int:
        return sum(gateway.requests for gateway in self._site.gateways)

    @property
    def present(self) -> int:
        """Clients that are there now."""
        return len(self._tasks)

    async def __aenter__(self) -> Crowd:
        for force_close in (False, False, True):
            connector = aiohttp.TCPConnector(limit=0, force_close=force_close)
            self._sessions.append(await self._open(connector))
        narrow = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_narrow_socket)
        self._slow = await self._open(narrow)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _open(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=120)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return await self._stack.enter_async_context(session)

    async def come(self, rate: float) -> None:
        """So many clients a second come, until this is cancelled."""
        next_at = time.monotonic()
        weights = [weight for _, weight in self._does]
        while True:
            next_at = max(next_at + self._random.expovariate(rate), time.monotonic() - 1)
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            if len(self._tasks) >= _MOST_AT_ONCE:
                self.held_back += 1
                continue
            ((does, _),) = self._random.choices(self._does, weights)
            self._begin(does())

    async def all_gone(self, seconds: float) -> None:
        """Wait for those who are there."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=seconds)
            if left:
                self.problems.append(f"{len(left)} clients got no end within {seconds:.0f} s")

    def _begin(self, doing: Awaitable[None]) -> None:
        async def do() -> None:
            try:
                await doing
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.problems.append(
                    f"a client of the soak failed: {type(error).__name__}: {error}"
                )

        task = asyncio.create_task(do())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What they do -----------------------------------------------------------------------------

    async def _asks(self) -> None:
        dialect, ask = self._any_ask()
        await self._once(dialect, ask, self._key())

    async def _leaves(self) -> None:
        dialect, ask = self._any_ask(words=(40, 200))
        after = self._random.choice((None, self._random.randint(1, 30)))
        seconds = self._random.uniform(0, 1.5) if after is None else None
        await self._once(dialect, ask, self._key(), after=after, seconds=seconds)

    async def _goes_to_its_limit(self) -> None:
        dialect, ask = self._any_ask()
        await self._once(dialect, ask, self._random.choice(LIMITED))

    async def _reads_slowly(self) -> None:
        dialect = self._random.choice((dialects.LLM, dialects.CHAT, dialects.MESSAGES))
        ask = Ask("m", self._random.randrange(10**6), 1500, 1500, stream=True)
        await self._once(dialect, ask, self._key(), slowly=True)

    async def _once(self, dialect: Dialect, ask: Ask, key: str, **how: Any) -> None:
        name = self._name()
        work = self._book.begin(name, key, self._prompt_tokens(ask), self._tokens(ask))
        with work.clients_there():
            exchange = await self._exchange(dialect, ask, key, {"X-Request-Id": name}, **how)
            self._note(name, work, exchange, dialect, ask, key)

    async def _retries(self) -> None:
        """Sends a request under an ``Idempotency-Key`` until it has the answer twice."""
        dialect, ask = self._any_ask(words=(20, 100))
        key, said = self._key(), self._name()
        work = self._book.begin(
            said, key, self._prompt_tokens(ask), self._tokens(ask), retries=True
        )
        ids: list[str] = []
        with work.clients_there():
            for _ in range(_TRIES):
                headers = {"X-Request-Id": self._name(), "Idempotency-Key": said}
                seconds = self._random.choice((None, self._random.uniform(0, 2)))
                exchange = await self._exchange(dialect, ask, key, headers, seconds=seconds)
                self._note(said, work, exchange, dialect, ask, key)
                if exchange.how == "whole":
                    ids.append(exchange.told.id)
                    if len(ids) == 2:
                        break
                elif exchange.how != "left":
                    await asyncio.sleep(1)
            if len(set(ids)) > 1:
                self.untrue.append(f"{said}: two answers under one Idempotency-Key: {ids}")

    async def _resumes(self) -> None:
        """Leaves a stream, and comes back for the rest of it."""
        dialect = self._random.choice(dialects.RESUMABLE)
        ask = self._ask(words=(40, 150))._replace(
            stream=True, model=self._random.choice(("m", "slow"))
        )
        key, said, gateway = self._key(), self._name(), self._gateway()
        work = self._book.begin(
            said, key, self._prompt_tokens(ask), self._tokens(ask), retries=True
        )
        told = Told()
        with work.clients_there():
            for _ in range(_TRIES):
                headers = {"X-Request-Id": self._name(), "Idempotency-Key": said}
                if told.last_event:
                    headers["Last-Event-ID"] = told.last_event
                after = self._random.choice((None, self._random.randint(1, 20)))
                exchange = await self._exchange(
                    dialect, ask, key, headers, gateway=gateway, told=told, after=after
                )
                self._note(said, work, exchange, dialect, ask, key)
                if exchange.how == "whole":
                    break
                if exchange.how != "left":
                    await asyncio.sleep(1)
                    told = Told()  # from the beginning

    async def _embeds(self) -> None:
        name, key, gateway = self._name(), self._key(), self._gateway()
        given = [f"text {self._random.random()}" for _ in range(self._random.randint(1, 5))]
        tokens = sum(map(len, given))
        work = self._book.begin(name, key, tokens, 0)
        headers = self._headers(key) | {"X-Request-Id": name}
        exchange = Exchange(gateway, Told())
        body = {"model": "vectors", "input": given}
        gateway.requests += 1
        self.kinds["embeddings"] += 1
        session = self._random.choice(self._sessions)
        url = f"{gateway.url}/v1/embeddings"
        with work.clients_there(), exchange.to_the_end():
            async with session.post(url, json=body, headers=headers) as response:
                read = await response.json()
                exchange.how = "whole" if response.status == 200 else str(response.status)
                if response.status == 200:
                    exchange.told.prompt_tokens = read["usage"]["prompt_tokens"]
                    vectors = [one["embedding"] for one in read["data"]]
                    if not _alike(vectors, [vector(one.encode()) for one in given]):
                        self.untrue.append(f"{name}: vectors aren't those of the texts")
                else:
                    exchange.code = str(read["error"]["code"])
        self._note(name, work, exchange, dialects.CHAT, Ask("vectors", 0, 0, 0, known=False), key)

    async def _sends_a_wrong_body(self) -> None:
        """What a client gets wrong is told, and nothing is billed."""
        name, key, gateway = self._name(), self._key(), self._gateway()
        work = self._book.begin(name, key, 0, 0)
        headers = self._headers(key) | {"X-Request-Id": name}
        wrong = self._random.choice(
            (
                b"{",
                b"[]",
                b"\xff\xfe",
                b'{"messages": []}',
                b'{"messages": 1, "x": 2}',
                b"1" * 200_000,
            )
        )
        path = self._random.choice([one for one in dialects.ALL if not one.lines]).path
        exchange = Exchange(gateway, Told())
        gateway.requests += 1
        self.kinds["wrong bodies"] += 1
        session = self._random.choice(self._sessions)
        with work.clients_there(), exchange.to_the_end():
            async with session.post(gateway.url + path, data=wrong, headers=headers) as response:
                await response.read()
                exchange.how = str(response.status)
        if exchange.how in ("400", "422"):
            self.ends[exchange.how] += 1
            work.answers.append(Answer(whole=False, refused=True, delivered=0))
        else:
            self._note(name, work, exchange, dialects.CHAT, Ask("", 0, 0, 0, known=False), key)

    async def _sends_garbage(self) -> None:
        self.kinds["garbage"] += 1
        garbage = self._random.choice((*_GARBAGE, self._random.randbytes(200)))
        await self._raw(garbage, 0)

    async def _trickles(self) -> None:
        self.kinds["a byte a second"] += 1
        secret = self._site.secrets[self._key()]
        head = f"POST /llm HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n"
        await self._raw(f"{head}content-length: 1000\r\n\r\n".encode(), 20)

    async def _raw(self, sent: bytes, trickle: int) -> None:
        """Send it, then so many single bytes, and read what comes; nothing may be answered well."""
        gateway = self._gateway()
        answer = b""
        try:
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                try:
                    writer.write(sent)
                    if not trickle:
                        writer.write_eof()
                    reading = asyncio.create_task(reader.read())
                    for _ in range(trickle):
                        await asyncio.wait({reading}, timeout=1)
                        if reading.done():
                            break
                        writer.write(b"x")
                    answer = await reading
                finally:
                    writer.transport.abort()
        except OSError:
            return
        if answer and not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 503")):
            self.problems.append(f"garbage {sent[:40]!r} was answered {answer[:60]!r}")

    async def _looks(self) -> None:
        gateway, path = self._gateway(), self._random.choice(_PAGES)
        self.kinds["pages"] += 1
        secret = ADMIN_KEY if path.startswith("/admin") else self._site.secrets["alice"]
        headers = {"Authorization": f"Bearer {secret}"}
        exchange = Exchange(gateway, Told())
        session = self._random.choice(self._sessions)
        with exchange.to_the_end():
            async with session.get(gateway.url + path, headers=headers) as response:
                await response.read()
                exchange.how = "whole" if response.status == 200 else str(response.status)
        self._judge(f"GET {path}", exchange, continuable=True)

    # One exchange -----------------------------------------------------------------------------

    async def _exchange(
        self,
        dialect: Dialect,
        ask: Ask,
        key: str,
        headers: dict[str, str],
        *,
        gateway: Gateway | None = None,
        told: Told | None = None,
        after: int | None = None,
        seconds: float | None = None,
        slowly: bool = False,
    ) -> Exchange:
        """Ask once.

        Args:
            told: what the client has already, which this goes on with.
            after: events after which it leaves.
            seconds: after which it leaves.
        """
        exchange = Exchange(gateway or self._gateway(ask.model), told or Told())
        exchange.gateway.requests += 1
        self.kinds[f"{dialect.name}, {'stream' if ask.stream else 'JSON'}"] += 1
        session = self._slow if slowly else self._random.choice(self._sessions)
        url = exchange.gateway.url + dialect.path
        headers = self._headers(key) | headers
        with exchange.to_the_end():
            try:
                async with asyncio.timeout(seconds):
                    async with session.post(url, json=dialect.body(ask), headers=headers) as answer:
                        await read_answer(answer, dialect, exchange, after, slowly=slowly)
                        if exchange.how != "whole":
                            answer.close()
            except TimeoutError:
                exchange.how = "left" if seconds is not None else "cut"
        return exchange

    def _note(
        self, said: str, work: Work, exchange: Exchange, dialect: Dialect, ask: Ask, key: str
    ) -> None:
        """Enter it into the book, and judge it."""
        told = exchange.told
        whole = exchange.how == "whole"
        answer = Answer(whole, exchange.how.isdigit(), told.delivered)
        if whole:
            answer.prompt_tokens = told.prompt_tokens
            answer.completion_tokens = told.completion_tokens
            self.tokens += ask.tokens
        work.answers.append(answer)
        if mistake := told.mistake(ask):
            self.untrue.append(f"{said} ({dialect.name}, {ask.model}): {mistake}")
        if exchange.how == "429" and key in LIMITED:
            self.ends["429"] += 1
        elif work.retries and (exchange.how in ("409", "410") or _is_refused_in_stream(exchange)):
            self.ends[exchange.how] += 1  # it asks again
        elif ask.model == "extra" and exchange.how in ("404", "400"):
            self.ends["no such model"] += 1
        else:
            continuable = ask.choices == 1 and not ask.calls
            self._judge(f"{said} ({dialect.name}, {ask})", exchange, continuable=continuable)

    def _judge(self, what: str, exchange: Exchange, *, continuable: bool) -> None:
        how = "503" if exchange.how == "529" else exchange.how
        self.ends[how] += 1
        if how in ("whole", "left"):
            return
        gateway = exchange.gateway.name
        if not self._faults.explains(how, exchange.began, gateway, continuable=continuable):
            took = time.monotonic() - exchange.began
            why = f"{how} {exchange.code or exchange.told.error}".strip()
            self.problems.append(
                f"{what} at gateway {gateway}, after {took:.1f} s: {why}, which no fault explains"
            )

    # Choices ----------------------------------------------------------------------------------

    def _any_ask(self, words: tuple[int, int] = (3, 60)) -> tuple[Dialect, Ask]:
        ask = self._ask(words)
        if self._site.real and self._random.random() < 0.01:
            real = Ask("real", 4 * ask.story + 1, 20, 16, stream=ask.stream, known=False)
            return dialects.LLM, real
        chosen = self._random.random()
        if chosen < 0.08:
            calling = ask._replace(model="caller", max_tokens=ask.words + 8, calls=True)
            return self._random.choice(dialects.WITH_TOOLS), calling
        dialect = self._random.choice(dialects.ALL)
        if chosen < 0.2 and dialect.most_choices > 1:
            return dialect, ask._replace(choices=dialect.most_choices)
        if chosen > 0.96:
            return dialect, ask._replace(model="extra")
        return dialect, ask

    def _ask(self, words: tuple[int, int]) -> Ask:
        count = self._random.randint(*words)
        cut = self._random.random() < 0.3
        return Ask(
            model="slow" if self._random.random() < 0.15 else "m",
            story=self._random.randrange(10**6),
            words=count,
            max_tokens=self._random.randint(1, count) if cut else max(count, 8),
            stream=self._random.random() < 0.6,
        )

    def _key(self) -> str:
        return self._random.choice(("alice", "bob"))

    def _gateway(self, model: str = "") -> Gateway:
        if model == "real":  # which only one of them runs
            return self._site.gateways[0]
        return self._random.choice(self._site.gateways)

    def _name(self) -> str:
        return f"soak-{next(self._numbers):08}"

    def _headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._site.secrets[key]}"}

    def _tokens(self, ask: Ask) -> int | None:
        return ask.tokens if ask.known else None

    def _prompt_tokens(self, ask: Ask) -> int:
        return texts.PROMPT_TOKENS


_REFUSALS = ("request_in_progress", "stream_not_resumable", "invalid_request_error")
"""What 409 and 410 are by the dialect."""


def _is_refused_in_stream(exchange: Exchange) -> bool:
    """Whether a stream that had to be opened before anything was known told of a 409 or 410."""
    refused = exchange.told.error in _REFUSALS
    return exchange.how == "broken" and refused and not exchange.tokens


def _alike(vectors: list[list[float]], expected: list[list[float]]) -> bool:
    if len(vectors) != len(expected):
        return False
    pairs = zip(itertools.chain(*vectors), itertools.chain(*expected), strict=True)
    return all(abs(one - other) < 1e-5 for one, other in pairs)


def _narrow_socket(address: Any) -> socket.socket:
    """One that holds little of what isn't read yet."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return made
