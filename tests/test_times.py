from __future__ import annotations

import pytest

from reverie.times import (
    first_of_month,
    format_day,
    format_moment,
    parse_day,
    parse_first_day,
    parse_moment,
)

NOW = 1_795_392_196_123
DAY = 86_400_000


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("30d", NOW + 30 * DAY),
        (" 12h ", NOW + DAY // 2),
        ("2027-01-31", 1_801_353_600_000),
        ("2027-01-31T00:00:00Z", 1_801_353_600_000),
        ("2027-01-31t01:00z", 1_801_357_200_000),
        ("2027-01-31T01:00:00+01:00", 1_801_353_600_000),
        ("2027-01-31 00:00:00.250Z", 1_801_353_600_250),
        ("1969-12-31", -DAY),
    ],
)
def test_a_moment_is_read_in_every_form(written: str, moment: int) -> None:
    assert parse_moment(written, NOW) == moment


@pytest.mark.parametrize(
    "written",
    [
        "",
        "30",
        "d",
        "-1d",
        "2027-02-30",
        "2027-1-31",
        "20270131",
        "2027-01-31T00:00:00",
        "soon",
        "٣d",
        "2027-01-31T25:00Z",
        "0001-01-01T00:00+23:00x",
        "999999d",
    ],
)
def test_a_wrong_moment_is_answered_with_how_to_write_it(written: str) -> None:
    with pytest.raises(ValueError, match="write 30d, 12h, a day as in 2027-01-31"):
        parse_moment(written, NOW)


def test_the_last_seven_days_end_today() -> None:
    today = parse_day("2026-11-22")
    assert format_day(parse_first_day("7d", today)) == "2026-11-16"
    assert parse_first_day("1d", today) == today
    assert parse_first_day("2026-11-01", today) == parse_day("2026-11-01")


@pytest.mark.parametrize("written", ["", "0d", "7h", "7", "2026-13-01", "2026-W01-1", "yesterday"])
def test_a_wrong_first_day_is_answered_with_how_to_write_it(written: str) -> None:
    with pytest.raises(ValueError, match="as in 2026-11-01, or 7d"):
        parse_first_day(written, 20_000)


@pytest.mark.parametrize(
    ("day", "first"),
    [("2026-11-22", "2026-11-01"), ("2028-02-29", "2028-02-01"), ("2027-01-01", "2027-01-01")],
)
def test_the_first_of_a_day_s_month(day: str, first: str) -> None:
    assert format_day(first_of_month(parse_day(day))) == first


def test_a_moment_is_written_to_the_second() -> None:
    assert format_moment(NOW) == "2026-11-23T00:03:16Z"
    assert format_moment(0) == "1970-01-01T00:00:00Z"
