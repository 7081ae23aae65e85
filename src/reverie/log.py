"""Structured log lines on standard error: one event per line, as text or as JSON.

Rule: no prompt, answer or key is ever passed to a logger. Each field is chosen where the line is
written; no object is logged whole.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from functools import lru_cache
from typing import Any, TextIO

import msgspec

_needs_quotes = re.compile(r'[ "=\n\r\t]|^$').search


def configure(level: str, form: str) -> None:
    """Send the lines of all loggers to standard error in ``form`` (``text`` or ``json``)."""
    handler = _WholeLines(sys.stderr)
    _look_up_only_what_is_written()
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
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

    def createLock(self) -> None:
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.stream.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class _Line(logging.LogRecord):
    """A line of a request: what the logging module would find out otherwise costs as much again."""

    def __init__(self, logger: str, level: int, message: str, values: dict[str, Any]) -> None:
        now = time.time()
        self.__dict__.update(
            _BLANK,
            name=logger,
            levelno=level,
            levelname=logging.getLevelName(level),
            msg=message,
            created=now,
            msecs=(now % 1) * 1000,
            fields=values,
        )


_BLANK = logging.makeLogRecord({}).__dict__


def write(logger: logging.Logger, level: int, message: str, **values: Any) -> None:
    """As ``logger.log(level, message, extra=fields(**values))``, for lines on the hot path."""
    if logger.isEnabledFor(level):
        known = {name: value for name, value in values.items() if value is not None}
        logger.handle(_Line(logger.name, level, message, known))


def set_level(level: str) -> None:
    """Log nothing less severe than ``level``, from now on."""
    logging.getLogger().setLevel(level.upper())


def fields(**values: Any) -> dict[str, Any]:
    """Fields of a line: ``logger.info("request", extra=fields(id=…))``. None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def _time_of(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: _rounded(value) for name, value in getattr(record, "fields", {}).items()},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _rounded(value: Any) -> Any:
    """A number to three decimals: what is measured is no more exact."""
    return round(value, 3) if isinstance(value, float) else value


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_time_of(record), record.levelname.lower().ljust(7), record.getMessage()]
        for name, value in getattr(record, "fields", {}).items():
            kind = type(value)
            if kind is float:
                parts.append(f"{name}={value:.1f}")
            elif kind is int:
                parts.append(f"{name}={value}")
            elif kind is bool:
                parts.append(f"{name}={'true' if value else 'false'}")
            else:
                parts.append(f"{name}={_quoted(str(value))}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _quoted(text: str) -> str:
    return _quoted_name(text) if len(text) <= _NAME else _quoted_text(text)


def _quoted_text(text: str) -> str:
    return msgspec.json.encode(text).decode() if _needs_quotes(text) else text


_NAME = 32
"""Characters of a text that is likely to come again, as routes and models do; ids have more."""
_quoted_name = lru_cache(maxsize=512)(_quoted_text)
