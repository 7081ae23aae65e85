"""The one log line of a request."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from reverie.errors import (
    AnswerCancelled,
    BackendError,
    BackendTimeout,
    ClientGone,
    DeadlinePassed,
    InvalidRequest,
    ReverieError,
    ServerStopped,
)
from reverie.events import Delta, Finish, Prompt, Usage
from reverie.gateway.record import RequestRecord


def line_of(record: RequestRecord, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    caplog.set_level(logging.INFO, "reverie.request")
    record.close()
    (line,) = caplog.records
    fields: dict[str, Any] = line.__dict__["fields"]
    return {"level": line.levelname, **fields}


def test_a_complete_answer_is_counted_as_the_engine_counted_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = RequestRecord("id", "/llm")
    record.status = 200
    record.saw([Prompt(9, 4), Delta("a"), Delta("b")])
    record.saw([Finish("stop"), Usage(9, 3, 4)])
    line = line_of(record, caplog)
    assert (line["outcome"], line["level"]) == ("ok", "INFO")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (9, 3)


def test_an_answer_that_was_cut_says_how_much_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    record = RequestRecord("id", "/llm")
    record.saw([Delta("a", tokens=2), Delta("b")])
    record.failed(BackendError("A backend failed.", reason="it closed the connection"))
    line = line_of(record, caplog)
    assert (line["outcome"], line["error"], line["pieces"]) == ("failed", "backend_error", 3)
    assert line["reason"] == "it closed the connection"
    assert line["level"] == "WARNING"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ClientGone("The client left."), "cancelled"),
        (InvalidRequest("top_p: no."), "refused"),
        (BackendError("It failed.", reason="x"), "failed"),
    ],
)
def test_what_ended_a_request_decides_its_outcome(error: ReverieError, outcome: str) -> None:
    record = RequestRecord("id", "/llm")
    record.failed(error)
    assert record.outcome == outcome


@pytest.mark.parametrize(
    ("error", "by"),
    [
        (ClientGone("The client left."), "client"),
        (AnswerCancelled(), "client"),
        (AnswerCancelled(by="operator"), "operator"),
        (DeadlinePassed("It took too long."), "deadline"),
        (BackendTimeout("It was silent."), None),
        (ServerStopped(), "shutdown"),
        (InvalidRequest("top_p: no."), None),
    ],
)
def test_who_cancelled_a_request_is_noted(error: ReverieError, by: str | None) -> None:
    record = RequestRecord("id", "/llm")
    record.failed(error)
    assert record.cancelled_by == by


def test_closing_a_record_settles_what_is_open() -> None:
    settled: list[str] = []
    record = RequestRecord("id", "/llm")
    record.at_end = lambda: settled.append(record.outcome)
    record.close()
    assert settled == ["failed"]
