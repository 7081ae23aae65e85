"""The scripted engine: a server that answers by script and records its requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, MutableSequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import msgspec

from reverie.testing import render, tasks
from reverie.testing.connection import Connection
from reverie.testing.playback import BodyWriter, Framing, write_answer
from reverie.testing.record import Outcome, RecordedRequest, RequestRecord
from reverie.testing.render import AnswerOptions, Refusal, RenderedAnswer
from reverie.testing.script import Script
from reverie.testing.wire import CHUNKED_END, Request, chunk, response_head
from reverie.text import in_url

_GENERATE = frozenset(
    {"/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions"}
)
_COUNT = {"/v1/chat/completions/input_tokens": "input_tokens", "/tokenize": "count"}
"""The routes that count a prompt, and the field of their answers."""
_MODELS = frozenset({"/v1/models", "/models"})
_CACHED_ANSWERS = 256


class ScriptedEngine(RequestRecord):
    """An OpenAI-compatible server on a port or a Unix socket; an async context manager.

    It serves ``POST /v1/chat/completions``, ``/v1/embeddings``, ``/v1/rerank``, ``/tokenize`` and
    ``/detokenize``, ``GET /v1/models`` and ``GET /health``, and counts prompts where ``count`` is
    set.

    Args:
        script: what to answer; default: ``Script()``.
        port: 0 takes a free one; ``restart`` keeps it.
        socket: the path of a Unix socket, instead of ``host`` and ``port``.
        model: the name of the one model in ``/v1/models``; requests may name any.
        key: what requests must carry as a bearer, but for ``/health``; empty: nothing.
        pages: more paths that GET is answered on, with JSON.
        record: whether to keep ``requests``. A load test of millions needs only the counters.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        socket: str | Path | None = None,
        model: str = "scripted",
        key: str = "",
        pages: Mapping[str, object] | None = None,
        record: bool = True,
    ) -> None:
        super().__init__(keep=record)
        self.script = script or Script()
        """Answers the requests that start from now on."""
        self.scripts: MutableSequence[Script] = []
        """While this isn't empty, each request takes the first of these instead of ``script``."""
        self.healthy = True
        """False makes ``/health`` answer 503, as an engine does while it loads its model."""
        self.count: Callable[[Any], int] | None = None
        """Counts the tokens of a prompt, given the body that asks."""
        self.owned_by = "reverie.testing"
        """``owned_by`` in its list of models: ``llamacpp``, ``vllm``, …"""
        self._host = host
        self._port = port
        self._socket = None if socket is None else Path(socket)
        self._model = model
        self._key = key
        self._pages = pages or {}
        self._server: asyncio.Server | None = None
        self._opened = 0
        self._connections: set[Connection] = set()
        self._running: dict[Connection, RecordedRequest] = {}
        self._stalls: set[asyncio.Future[None]] = set()
        self._answers: dict[tuple[int, AnswerOptions], tuple[Script, RenderedAnswer]] = {}

    @property
    def url(self) -> str:
        """The base URL, ``http://127.0.0.1:PORT/v1``; of a socket, ``http+unix://PATH/v1`` with
        the path percent-encoded."""
        if self._socket is not None:
            return f"http+unix://{quote(str(self._socket), safe='')}/v1"
        return f"http://{in_url(self._host)}:{self._port}/v1"

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def stalled(self) -> int:
        """Answers that are held at their script's ``stall_after``."""
        return len(self._stalls)

    # Life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address can't be had.
        """
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            self._server = await loop.create_unix_server(self._connect, str(self._socket))
            return
        self._server = await loop.create_server(self._connect, self._host, self._port, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """Die as a process does: reset every connection and stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            if (recorded := self._running.get(connection)) is not None:
                self._end(recorded, "died")
            connection.abort()

    async def restart(self) -> None:
        """Listen again on the same address, after ``kill``."""
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """Kill, and wait until nothing is left. Idempotent."""
        self.kill()
        await asyncio.gather(*(connection.wait_closed() for connection in self._connections))
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    # Stalls ---------------------------------------------------------------------------------

    def resume(self) -> None:
        """Let every stalled answer continue."""
        for stall in self._stalls:
            if not stall.done():
                stall.set_result(None)

    async def _stall(self) -> None:
        stall = asyncio.get_running_loop().create_future()
        self._stalls.add(stall)
        self._changed()
        try:
            await stall
        finally:
            self._stalls.discard(stall)
            self._changed()

    # Connections ----------------------------------------------------------------------------

    def _connect(self) -> Connection:
        self._opened += 1
        return Connection(
            self._opened,
            handle=self._handle,
            opened=self._on_open,
            client_left=self._on_leave,
            closed=self._on_close,
        )

    def _on_open(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._changed()

    def _on_leave(self, connection: Connection) -> None:
        if (recorded := self._running.pop(connection, None)) is not None:
            self._end(recorded, "completed" if recorded.all_tokens_sent else "cancelled")

    def _on_close(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changed()

    def _handle(self, connection: Connection, request: Request) -> Coroutine[Any, Any, None] | None:
        if not self._may_ask(request):
            refused = render.error_body(401, "Invalid API Key")
            self._send_json(connection, request, 401, refused)
            return None
        generates = request.path in _GENERATE or tasks.is_task(request.path, request.body)
        if request.method == "POST" and generates:
            return self._generate(connection, request)
        self._record_probe(f"{request.method} {request.path}")
        status, body = self._page(request)
        self._send_json(connection, request, status, body)
        return None

    def _may_ask(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return not self._key or request.path == "/health" or given == f"Bearer {self._key}"

    def _page(self, request: Request) -> tuple[int, bytes]:
        if request.method == "GET" and request.path in _MODELS:
            model = {"id": self._model, "object": "model", "created": render.CREATED}
            models = {"object": "list", "data": [{**model, "owned_by": self.owned_by}]}
            return 200, json.dumps(models).encode()
        if request.method == "GET" and request.path == "/health":
            if self.healthy:
                return 200, b'{"status":"ok"}'
            return 503, render.error_body(503, "Loading model")
        if request.method == "GET" and request.path in self._pages:
            return 200, json.dumps(self._pages[request.path]).encode()
        if self.count is not None and (field := _COUNT.get(request.path)) is not None:
            return 200, json.dumps({field: self.count(_decode(request.body))}).encode()
        return 404, render.error_body(404, f"There is no {request.method} {request.path} here.")

    # Generations ----------------------------------------------------------------------------

    def _generate(
        self, connection: Connection, request: Request
    ) -> Coroutine[Any, Any, None] | None:
        script = self.script
        if self.scripts:
            script = self.scripts[0]
            del self.scripts[0]
        body = _decode(request.body)
        recorded = RecordedRequest(
            request.path,
            request.headers,
            body if isinstance(body, dict) else {},
            connection.number,
        )
        self._running[connection] = recorded
        self._begin(recorded)
        if script.raw is not None:
            return self._hang_up(connection, recorded, script, script.raw)
        try:
            answer = self._answer(script, body, request.path)
        except Refusal as refusal:
            self._end(recorded, "refused")
            self._send_json(connection, request, 400, render.error_body(400, str(refusal)))
            return None
        except Exception:
            self._end(recorded, "died")
            raise
        if script.instant and request.keep_alive:
            self._send_at_once(connection, recorded, script, answer)
            return None
        return self._write(connection, recorded, script, answer, request)

    def _answer(self, script: Script, body: object, path: str) -> RenderedAnswer:
        """The rendered answer; a generation's is cached for later ones with the same options."""
        if path not in _GENERATE:
            return tasks.render(script, path, body, self._model)
        options = render.read_options(body, script, self._model)
        assert isinstance(body, dict)
        key = (id(script), options)
        cached = self._answers.get(key)
        if cached is not None:
            return cached[1]
        answer = render.render(script, options, body)
        if not callable(script.tokens):
            if len(self._answers) >= _CACHED_ANSWERS:
                self._answers.clear()
            self._answers[key] = (script, answer)  # the script is kept: its id stays unique
        return answer

    def _send_at_once(
        self,
        connection: Connection,
        recorded: RecordedRequest,
        script: Script,
        answer: RenderedAnswer,
    ) -> None:
        body = answer.whole
        head = _head(script, answer, "chunked" if answer.streamed else "length", keep_alive=True)
        framed = chunk(body) + CHUNKED_END if answer.streamed else body
        recorded.sent = len(answer.tokens)
        self._end(recorded, "completed" if answer.status == 200 else "refused")
        connection.send(head + framed)

    async def _write(
        self,
        connection: Connection,
        recorded: RecordedRequest,
        script: Script,
        answer: RenderedAnswer,
        request: Request,
    ) -> None:
        framing: Framing = "length"
        if answer.streamed:
            framing = "chunked" if request.http11 else "until-close"
        head = _head(script, answer, framing, keep_alive=request.keep_alive)
        body = BodyWriter(connection, script, head, framing)
        whole = await write_answer(script, answer, body, _Listener(self, recorded))
        outcome: Outcome = "completed" if whole else "died"
        self._end(recorded, "refused" if whole and answer.status != 200 else outcome)
        if not (script.keep_alive and request.keep_alive):
            connection.close()

    async def _hang_up(
        self, connection: Connection, recorded: RecordedRequest, script: Script, raw: bytes
    ) -> None:
        await asyncio.sleep(script.delay_headers)
        self._end(recorded, "died")
        connection.send(raw)
        await BodyWriter(connection, script, b"", "until-close").die()

    def _send_json(
        self, connection: Connection, request: Request, status: int, body: bytes
    ) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if not request.keep_alive:
            headers["Connection"] = "close"
        connection.send(response_head(status, headers) + body)
        if not request.keep_alive:
            connection.close()


class _Listener:
    """Keeps the record of one generation up to date while it is written."""

    def __init__(self, engine: ScriptedEngine, recorded: RecordedRequest) -> None:
        self._engine = engine
        self._recorded = recorded

    def on_tokens(self, count: int) -> None:
        self._recorded.sent = count
        self._engine._changed()

    def on_all_tokens(self) -> None:
        self._recorded.all_tokens_sent = True

    async def on_stall(self) -> None:
        await self._engine._stall()


def _decode(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _head(script: Script, answer: RenderedAnswer, framing: Framing, *, keep_alive: bool) -> bytes:
    headers = {"Content-Type": answer.content_type}
    if framing == "chunked":
        headers["Cache-Control"] = "no-cache"
        headers["Transfer-Encoding"] = "chunked"
    elif framing == "length":
        headers["Content-Length"] = str(len(answer.closing))
    if not keep_alive:
        headers["Connection"] = "close"
    if script.retry_after is not None:
        headers["Retry-After"] = f"{script.retry_after:g}"
    replaced = {name.lower() for name in script.headers}
    kept = {name: value for name, value in headers.items() if name.lower() not in replaced}
    return response_head(answer.status, {**kept, **script.headers})
