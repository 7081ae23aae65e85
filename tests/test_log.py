"""Log lines: one event per line, as text or as JSON."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from reverie import log

logger = logging.getLogger("reverie.test")


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


def written(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_text_lines_carry_time_level_message_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("info", "text")
    logger.info(
        "a request", extra=log.fields(id="req_1", ok=True, ms=1.25, who="two words", why=None)
    )
    line = written(capsys)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    a request id=req_1 ", line)
    assert line.endswith(' ok=true ms=1.2 who="two words"\n')


@pytest.mark.parametrize("value", ["a\nb", "a b", 'say "x"', "a=b", ""])
def test_no_value_can_pose_as_another_field_or_line(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("info", "text")
    logger.info("it", extra=log.fields(value=value))
    [line] = written(capsys).splitlines()
    assert json.loads(line.partition("value=")[2]) == value


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("char", list("\x1b\x9b\x7f\u2028\u202e\U000e0041\udcff"))
def test_no_value_moves_a_terminal_or_turns_a_line_around(
    char: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("info", form)
    value = f"a{char}[2Jé🙂"
    logger.info("it", extra=log.fields(value=value))
    line = written(capsys).removesuffix("\n")
    assert line.isprintable()
    read = json.loads(line)["value"] if form == "json" else json.loads(line.partition("value=")[2])
    assert read == value


def test_json_lines_carry_the_same_and_what_has_no_json_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("info", "json")
    logger.warning("it", extra=log.fields(n=1, error=ValueError("why"), none=None))
    line = json.loads(written(capsys))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "reverie.test", "it")
    assert (line["n"], line["error"]) == (1, "why")
    assert "none" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_with_its_line(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", form)
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("it failed")
    said = written(capsys)
    if form == "json":
        [said] = [json.loads(said)["traceback"]]
    assert "Traceback" in said
    assert "ValueError: why" in said


def test_the_level_can_change(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("warning", "text")
    logger.info("before")
    log.set_level("info")
    logger.info("after")
    assert written(capsys).endswith("info    after\n")


def test_json_lines_round_what_was_measured() -> None:
    record = logging.makeLogRecord({"msg": "request", **log.fields(queue_ms=0.1 + 0.2, count=3)})
    line = json.loads(log._Formatter(log._as_json).format(record))
    assert (line["queue_ms"], line["count"]) == (0.3, 3)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_of_the_hot_path_is_like_any_other(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.configure("info", form)
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.25)
    values = {"id": "req_1", "who": "two words", "ms": 1.25, "n": 3, "ok": True, "why": None}
    logger.warning("it", extra=log.fields(**values))
    log.write(logger, logging.WARNING, "it", **values)
    log.write(logger, logging.DEBUG, "it", **values)
    first, second = written(capsys).splitlines()
    assert first == second


def test_whoever_listens_beside_gets_lines_of_the_hot_path_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("info", "text")
    heard: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = heard.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(listener)
    log.write(logger, logging.INFO, "it", n=3, why=None)
    assert [record.__dict__["fields"] for record in heard] == [{"n": 3}]
    assert written(capsys).endswith("it n=3\n")
