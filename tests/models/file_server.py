"""A real HTTP server for files, which can fail in the ways that servers of files do."""

from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Self


@dataclass
class Request:
    """A request, and how many bytes of a file were sent in return."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class FileServer:
    """Use it as a context manager; it serves in threads."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path → content. A path that ends in a slash is a page of HTML."""
    cuts: list[int] = field(default_factory=list)
    """One per request of a file: hang up after so many bytes. Later requests get the whole file."""
    statuses: list[int] = field(default_factory=list)
    """One per request of a file: the status to answer, 200 with the file. Then all get the file."""
    ignore_range: bool = False
    announce_length: bool = True
    password: str | None = None
    """If set, every request must carry ``user:password``."""
    after_bytes: tuple[int, Callable[[], object]] | None = None
    """Call this once so many bytes of a file have been sent. It may block."""
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        files = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                files.answer(self)

            def do_HEAD(self) -> None:
                files.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked(self, path: str) -> list[Request]:
        """The requests for one path."""
        return [request for request in self.requests if request.path == path]

    def answer(self, http: http.server.BaseHTTPRequestHandler) -> None:
        request = self.record(http)
        content = self.files.get(http.path)
        if not self._is_let_in(request):
            self.refuse(http, HTTPStatus.UNAUTHORIZED)
        elif content is None:
            self.refuse(http, HTTPStatus.NOT_FOUND)
        elif http.path.endswith("/"):
            self._send_head(http, HTTPStatus.OK, len(content), kind="text/html")
            http.wfile.write(content)
        elif self.statuses and (status := self.statuses.pop(0)) != HTTPStatus.OK:
            self.refuse(http, status)
        else:
            self.send_file(http, request, content)

    def record(self, http: http.server.BaseHTTPRequestHandler) -> Request:
        """Add the request to ``requests``."""
        headers = {name.lower(): value for name, value in http.headers.items()}
        self.requests.append(Request(http.command, http.path, headers))
        return self.requests[-1]

    def _is_let_in(self, request: Request) -> bool:
        if self.password is None:
            return True
        token = base64.b64encode(f"user:{self.password}".encode()).decode()
        return request.headers.get("authorization") == f"Basic {token}"

    def refuse(self, http: http.server.BaseHTTPRequestHandler, status: int) -> None:
        http.send_response(status)
        if status == HTTPStatus.UNAUTHORIZED:
            http.send_header("WWW-Authenticate", 'Basic realm="index"')
        http.send_header("Content-Length", "0")
        http.end_headers()

    def send_file(
        self, http: http.server.BaseHTTPRequestHandler, request: Request, content: bytes
    ) -> None:
        begin = 0
        if request.range is not None and not self.ignore_range:
            begin = int(request.range.removeprefix("bytes=").partition("-")[0])
            if begin >= len(content):
                self.refuse(http, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            place = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self._send_head(http, HTTPStatus.PARTIAL_CONTENT, len(content) - begin, place)
        else:
            self._send_head(http, HTTPStatus.OK, len(content))
        rest = content[begin:]
        if self.cuts:
            rest = rest[: self.cuts.pop(0)]
        if self.after_bytes is not None:
            size, wait = self.after_bytes
            self._write(http, request, rest[:size])
            wait()
            rest = rest[size:]
        self._write(http, request, rest)

    def _send_head(
        self,
        http: http.server.BaseHTTPRequestHandler,
        status: HTTPStatus,
        length: int,
        place: str | None = None,
        kind: str = "application/octet-stream",
    ) -> None:
        http.send_response(status)
        http.send_header("Content-Type", kind)
        if self.announce_length:
            http.send_header("Content-Length", str(length))
        if place is not None:
            http.send_header("Content-Range", place)
        http.end_headers()

    @staticmethod
    def _write(http: http.server.BaseHTTPRequestHandler, request: Request, content: bytes) -> None:
        try:
            http.wfile.write(content)
            http.wfile.flush()
        except ConnectionError:
            return
        request.sent += len(content)
