"""Structured log lines on standard error: one event per line, as text or as JSON.

Rule: no prompt, answer or key is ever passed to a logger. Each field is chosen where the line is
written; no object is logged whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TextIO

import msgspec

_needs_quotes = re.compile(r'[ "=]|^$').search


def configure(level: str, form: str) -> None:
    """Send the lines of all loggers to standard error in ``form`` (``text`` or ``json``)."""
    handler = _WholeLines(sys.stderr)
    _look_up_only_what_is_written()
    handler.setFormatter(_Formatter(_as_json if form == "json" else _as_text))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At "info" these speak of their internals; Reverie logs what an operator wants to know.
    for name in ("uvicorn", "uvicorn.error", "asyncio", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _look_up_only_what_is_written() -> None:
    """Have the logging module not find out where and in which thread each line was logged.

    That takes longer than to write the line (docs.python.org/3/howto/logging.html#optimization).
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class _WholeLines(logging.StreamHandler[TextIO]):
    """Writes each line at once with one call of the system, so that a crash loses none.

    It takes no lock: standard error takes a whole line from any thread, and has no line in it then.
    """

    formatter: _Formatter

    def createLock(self) -> None:
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.stream.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def write(logger: logging.Logger, level: int, message: str, **values: Any) -> None:
    """As ``logger.log(level, message, extra=fields(**values))``, for a line on the hot path.

    Where nobody else listens, no record is made of it: that costs as much as the line itself.
    """
    if not logger.isEnabledFor(level):
        return
    listening = logging.root.handlers
    handler = listening[0] if len(listening) == 1 else None
    if not isinstance(handler, _WholeLines):
        logger.log(level, message, extra=fields(**values))
        return
    line = handler.formatter.text_of(_Line(time.time(), level, logger.name, message, values))
    with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
        handler.stream.write(line + "\n")


def set_level(level: str) -> None:
    """Log nothing less severe than ``level``, from now on."""
    logging.getLogger().setLevel(level.upper())


def fields(**values: Any) -> dict[str, Any]:
    """Fields of a line: ``logger.info("request", extra=fields(id=…))``. None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _time_of(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


_LEVELS = {
    level: logging.getLevelName(level).lower()
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
}


class _Line(NamedTuple):
    """What one line tells. Fields that are None are left out."""

    at: float
    level: int
    logger: str
    message: str
    values: Mapping[str, Any]
    traceback: str = ""


class _Formatter(logging.Formatter):
    """Writes lines in one form: a record's, or what would be one."""

    def __init__(self, text_of: Callable[[_Line], str]) -> None:
        super().__init__()
        self.text_of = text_of

    def format(self, record: logging.LogRecord) -> str:
        values = getattr(record, "fields", {})
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        return self.text_of(
            _Line(
                record.created, record.levelno, record.name, record.getMessage(), values, traceback
            )
        )


def _as_json(line: _Line) -> str:
    told = {
        "time": _time_of(line.at),
        "level": _LEVELS.get(line.level, str(line.level)),
        "logger": line.logger,
        "message": line.message,
    }
    for name, value in line.values.items():
        if value is not None:
            told[name] = _rounded(value)
    if line.traceback:
        told["traceback"] = line.traceback
    return _visible(_json(told))


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except UnicodeEncodeError:  # the name of a file may have bytes that are no text
        return json.dumps(value, default=str)


def _visible(line: str) -> str:
    """JSON without a character that a terminal would obey or that would turn its text around."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def _rounded(value: Any) -> Any:
    """A number to three decimals: what is measured is no more exact."""
    return round(value, 3) if isinstance(value, float) else value


def _as_text(line: _Line) -> str:
    level = _LEVELS.get(line.level, str(line.level))
    parts = [f"{_time_of(line.at)} {level:7} {line.message}"]
    for name, value in line.values.items():
        kind = type(value)
        if kind is int:
            parts.append(f"{name}={value}")
        elif kind is float:
            parts.append(f"{name}={value:.1f}")
        elif kind is bool:
            parts.append(f"{name}={'true' if value else 'false'}")
        elif value is not None:
            parts.append(f"{name}={_quoted(str(value))}")
    text = " ".join(parts)
    return f"{text}\n{line.traceback}" if line.traceback else text


def _quoted(text: str) -> str:
    return _quoted_name(text) if len(text) <= _NAME else _quoted_text(text)


def _quoted_text(text: str) -> str:
    if text.isprintable() and not _needs_quotes(text):
        return text
    return _visible(_json(text))


_NAME = 32
"""Characters of a text that is likely to come again, as routes and models do; ids have more."""
_quoted_name = lru_cache(maxsize=512)(_quoted_text)
