"""What a window holds of a busy server, however small it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from reverie.cli.live_view import more_lines, screen

HELP = ("a long line of help that a narrow window has no room for at all, and more", "q quit")


def request(number: int) -> dict[str, Any]:
    return {
        "id": f"request-{number}",
        "key": "alice",
        "model": "m",
        "backend": "b",
        "state": "answer",
        "seconds": 1.25,
        "time_to_first_token": None,
        "tokens": number,
    }


def live(**backend: Any) -> dict[str, Any]:
    about = {"name": "b", "state": "closed", "reason": None, "ready": True, "in_flight": 1}
    none = {"p50": None, "p95": None}
    return {
        "at": "2026-11-30T10:15:20Z",
        "models": [{"model": "m", "backends": [{**about, "slots": 3, **backend}]}],
        "minutes": [],
        "time_to_first_token": none,
        "duration": none,
        "errors": [],
    }


def drawn(width: int, height: int, chosen: int, said: str = "", count: int = 50) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, highlight=False)
    found = screen(
        "50 running, 7 waiting, 50 of 64 slots in use",
        [f"line {number} of what there is to tell beside it" for number in range(8)],
        [request(number) for number in range(count)],
        chosen,
        said,
        HELP,
        width=width,
        height=height,
    )
    console.print(found)
    return file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (40, 7), (200, 60)])
@pytest.mark.parametrize("chosen", [0, 25, 49])
@pytest.mark.parametrize("said", ["", "cancelled request-1"])
def test_it_fits_and_the_chosen_request_is_there(
    width: int, height: int, chosen: int, said: str
) -> None:
    lines = drawn(width, height, chosen, said)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any(str(chosen) == line.split()[-1] for line in lines if line.startswith("req"))
    assert lines[0].startswith("50 running")
    assert lines[-1] in HELP
    if said:
        assert lines[-2].rstrip() == said


def test_few_requests_leave_room_for_the_rest() -> None:
    assert sum(line.startswith("line ") for line in drawn(80, 24, 0, count=2)) == 8
    assert drawn(80, 24, 0, count=0)[-1] in HELP


def test_a_backend_that_ails_comes_first_with_its_reason() -> None:
    well = more_lines(live(), None)
    assert well[-1] == "m on b: ready, 1/3 slots"
    ill = more_lines(live(ready=False, state="open", reason="backend_timeout"), None)
    assert ill[0] == "m on b: not ready, circuit open, 1/3 slots: backend_timeout"


def test_what_today_has_cost_is_in_each_currency() -> None:
    sums = {"requests": 2, "prompt_tokens": 3, "completion_tokens": 4, "costs": []}
    assert "today: 0.00 for 2 requests" in more_lines(live(), sums)[0]
    costs = [{"formatted": "0.18 USD"}, {"formatted": "2.00 EUR"}]
    assert "today: 0.18 USD + 2.00 EUR for" in more_lines(live(), {**sums, "costs": costs})[0]


def test_a_server_s_words_reach_no_terminal_as_commands() -> None:
    [line] = [one for one in more_lines(live(reason="a\x1b[2J\nb"), None) if one.startswith("m on")]
    assert line.endswith(": a[2J b")


@pytest.mark.parametrize(("minute", "count"), [("10:14", 120), ("09:50", 0), ("10:15", 0)])
def test_the_last_minute_is_the_one_before_this_and_not_one_of_long_ago(
    minute: str, count: int
) -> None:
    figures = {"requests": 120, "failed": 0, "failovers": 0, "completion_tokens": 600}
    seen = {**live(), "minutes": [{"at": f"2026-11-30T{minute}:00Z", **figures}]}
    (line,) = [line for line in more_lines(seen, None) if line.startswith("last minute")]
    assert line == f"last minute: {count} requests, {count / 12:.1f} tokens/s"
