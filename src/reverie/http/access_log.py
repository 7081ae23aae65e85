"""The access log: a line for each HTTP request, in the combined log format of Apache and nginx.

After that format's fields come the request's id, its seconds, the tokens of its prompt and of its
answer, and its model; ``-`` stands for what there is none of.

Rule: nothing secret. A query is left out, as is a referrer's; what looks like a key is masked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from functools import lru_cache
from pathlib import Path

from reverie.correlation import request_id
from reverie.errors import ConfigurationError
from reverie.gateway.record import RequestRecord
from reverie.http.connection.exchange import Receive, Scope, Send, header
from reverie.http.connection.extensions import exchange_of
from reverie.http.recorded import RECORDS
from reverie.http.routes import Application
from reverie.http.trusted_proxies import TrustedProxies
from reverie.log import fields
from reverie.settings import ServerSettings

logger = logging.getLogger("reverie.access")

STANDARD_OUTPUT = Path("-")
_LOOK_INTERVAL = 1.0
"""Seconds between two looks whether the file was moved away."""
_CLIENT_LEFT = 499
_LONGEST = 1024
"""Characters of what a client chose: a path, a referrer, a user agent."""
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f-\U0010ffff]')
_UNSAFE_BARE = re.compile(r'[][ "\\\x00-\x1f\x7f-\U0010ffff]')
_KEY = re.compile(
    r"(rv_|(?<![^\W_])sk-|(?<=%[0-9a-f]{2})sk-|Bearer(?: |%20|\+))[\w.~+=-]{8,}", re.IGNORECASE
)
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_USERINFO = re.compile(r"(?<=//)[^/@]*@")


class AccessLog:
    """An ASGI application that logs what another one answers.

    Args:
        file: where the lines go; ``-``: to standard output.

    Raises:
        ConfigurationError: the file can't be opened.
    """

    def __init__(self, application: Application, file: Path, proxies: TrustedProxies) -> None:
        self._application = application
        self._proxies = proxies
        self._file = _File(file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        records: list[RequestRecord] = []
        scope[RECORDS] = records
        try:
            await self._application(scope, receive, send)
        finally:
            record = records[0] if records else None
            self._file.write(self._line(scope, record, time.monotonic() - began))

    def close(self) -> None:
        self._file.close()

    def _line(self, scope: Scope, record: RequestRecord | None, seconds: float) -> str:
        exchange = exchange_of(scope)
        status = record.status if record is not None else 0
        if not status:
            status = exchange.status if exchange is not None else 0
        target = scope.get("raw_path", b"").decode("latin-1")
        sent = exchange.body_sent if exchange is not None else 0
        key, prompt, completion, model = None, None, None, None
        if record is not None:
            key, model = record.key, record.model
            prompt, completion = record.prompt_tokens, record.completion_tokens
        return (
            f"{self._proxies.client_of(scope)} - {_bare(key)} [{_moment(int(time.time()))}] "
            f'"{scope["method"]} {_bare(target)} HTTP/{scope["http_version"]}" '
            f"{status or _CLIENT_LEFT} {sent or '-'} "
            f'"{_referrer(header(scope, b"referer"))}" "{_quoted(header(scope, b"user-agent"))}" '
            f'"{request_id() or "-"}" {seconds:.3f} {_count(prompt)} {_count(completion)} '
            f'"{_text(model)}"\n'
        )


def access_log(application: Application, settings: ServerSettings) -> AccessLog | None:
    """The configured access log of an application; None: there is to be none.

    Raises:
        ConfigurationError: it can't be written.
    """
    if settings.access_log is None:
        return None
    return AccessLog(application, settings.access_log, TrustedProxies(settings.trusted_proxies))


class _File:
    """Appends whole lines, each with one call of the system: several processes may write it.

    A file that was moved away, as logrotate does, is opened anew within a second.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked_at = time.monotonic()
        self._failing = False
        self._number: int | None = 1
        if path != STANDARD_OUTPUT:
            try:
                self._number = self._open()
            except OSError as error:
                reason = f"server.access_log: can't be written: {error.strerror}"
                raise ConfigurationError([f"{reason}; choose another file"]) from None

    def write(self, line: str) -> None:
        """Write a line, or say once that it can't be done."""
        try:
            os.write(self._current(), line.encode("ascii", "backslashreplace"))
        except OSError as error:
            if not self._failing:
                logger.error("the access log can't be written", extra=fields(reason=error.strerror))
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        if self._number is not None and self._path != STANDARD_OUTPUT:
            os.close(self._number)
        self._number = None

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _current(self) -> int:
        now = time.monotonic()
        if self._path != STANDARD_OUTPUT and now - self._looked_at > _LOOK_INTERVAL:
            self._looked_at = now
            if self._number is None or not self._is_in_place(self._number):
                self.close()
                self._number = self._open()
        if self._number is None:
            raise OSError(0, "it is closed")
        return self._number

    def _is_in_place(self, number: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(number))
        return False


@lru_cache(maxsize=2)
def _moment(seconds: int) -> str:
    month = _MONTHS[time.gmtime(seconds).tm_mon - 1]  # in English, whatever the locale
    return time.strftime(f"%d/{month}/%Y:%H:%M:%S +0000", time.gmtime(seconds))


_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else str(tokens)


def _text(text: str | None) -> str:
    """What stands between quotation marks."""
    if not text:
        return "-"
    return _UNSAFE.sub(_escaped, _KEY.sub(r"\1***", text[:_LONGEST]))


def _bare(text: str | None) -> str:
    """What ends at the next space."""
    if not text:
        return "-"
    return _UNSAFE_BARE.sub(_escaped, _KEY.sub(r"\1***", text[:_LONGEST]))


def _quoted(value: bytes | None) -> str:
    return _text(None if value is None else value.decode("latin-1"))


def _referrer(value: bytes | None) -> str:
    if value is None:
        return "-"
    return _text(_USERINFO.sub("", _QUERY.sub("", value.decode("latin-1"))))


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"
