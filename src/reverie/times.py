"""Times and days as people write them ↔ integers. All are UTC.

A moment is milliseconds since 1970; a day is days since 1970.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta

DAY_MS = 86_400_000
_UNITS = {"h": 3_600_000, "d": DAY_MS}
_SPAN = re.compile(r"([0-9]{1,5})([hd])")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(_DAY.pattern + r"[Tt ][0-9:.]{5,15}(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")
_EPOCH = date(1970, 1, 1)
_EPOCH_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)


def now_ms() -> int:
    """This moment, by this machine's clock."""
    return time.time_ns() // 1_000_000


def day_of(milliseconds: int) -> int:
    """The day on which a moment lies."""
    return milliseconds // DAY_MS


def parse_moment(text: str, now: int) -> int:
    """Read ``30d``, ``12h`` (from now), ``2027-01-31`` (its first moment), or RFC 3339.

    Raises:
        ValueError: it says how to write one.
    """
    text = text.strip()
    if span := _SPAN.fullmatch(text):
        return now + int(span[1]) * _UNITS[span[2]]
    try:
        if _DAY.fullmatch(text):
            return parse_day(text) * DAY_MS
        if _MOMENT.fullmatch(text):
            moment = datetime.fromisoformat(text.upper())
            return (moment - _EPOCH_MOMENT) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        pass
    raise ValueError("write 30d, 12h, a day as in 2027-01-31, or 2027-01-31T12:00:00Z")


def parse_day(text: str) -> int:
    """Read ``2026-11-01``.

    Raises:
        ValueError: it says how to write one.
    """
    try:
        if _DAY.fullmatch(text):
            return (date.fromisoformat(text) - _EPOCH).days
    except ValueError:
        pass
    raise ValueError("write a day, as in 2026-11-01")


def parse_first_day(text: str, today: int) -> int:
    """Read ``2026-11-01``, or ``7d`` for the last seven days, today among them.

    Raises:
        ValueError: it says how to write one.
    """
    text = text.strip()
    span = _SPAN.fullmatch(text)
    if span and span[2] == "d" and int(span[1]):
        return today - int(span[1]) + 1
    try:
        return parse_day(text)
    except ValueError:
        raise ValueError("write a day, as in 2026-11-01, or 7d for the last seven") from None


def first_of_month(day: int) -> int:
    """The first day of the month that a day lies in."""
    return (_date(day).replace(day=1) - _EPOCH).days


def format_day(day: int) -> str:
    """Write ``2026-11-01``."""
    return _date(day).isoformat()


def format_moment(milliseconds: int) -> str:
    """Write ``2026-11-01T12:00:00Z``; fractions of a second are cut off."""
    moment = _EPOCH_MOMENT + timedelta(seconds=milliseconds // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
