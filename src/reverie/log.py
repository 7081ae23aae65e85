"""Structured log lines on standard error: one event a line, as text or as JSON.

Rule: neither a prompt, an answer nor a key is ever passed to a logger. Fields are chosen one by
one where the line is written; nothing is dumped whole.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec

_TEXT_NEEDS_QUOTES = frozenset(' "=\n\r\t')


def configure(level: str, form: str) -> None:
    """Send every logger's lines to standard error in ``form`` (``text`` or ``json``)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What these say at "info" is about themselves; Reverie says what an operator wants to know.
    for name in ("uvicorn", "uvicorn.error", "asyncio", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Change the least severe line that is logged."""
    logging.getLogger().setLevel(level.upper())


def fields(**values: Any) -> dict[str, Any]:
    """Fields for a line: ``logger.info("request", extra=fields(id=…))``. None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def _time_of(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_time_of(record), record.levelname.lower().ljust(7), record.getMessage()]
        parts += [f"{k}={_quoted(v)}" for k, v in getattr(record, "fields", {}).items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    if not text or not _TEXT_NEEDS_QUOTES.isdisjoint(text):
        return msgspec.json.encode(text).decode()
    return text
