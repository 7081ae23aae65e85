"""No secret is in anything that the tests' processes write. A test that writes one fails.

Rule 1: a secret is known by its looks, as every key that Reverie makes and every text that a test
plants (``PLANTED``), or because it is the value of a variable that is named for one (``…_KEY``,
``…_PASSWORD``): of this process, of one that a test starts, of a gateway.

Rule 2: searched are log records at every level, what tests and their children write to standard
output and error, whether or not a test reads it, errors' bodies and metrics. ``note`` takes what
can't be heard from here. At the session's end come the logs in the tests' folders.

What pytest shows of a test that failed isn't searched: it quotes the test.
"""

from __future__ import annotations

import asyncio.subprocess
import io
import logging
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PLANTED = "planted-"
"""What a text begins with that a test plants, as a prompt, to see that it is written nowhere."""

_BY_LOOKS = re.compile(r"(?<![\w-])(?P<key>rv_[\w-]{8,})|planted-[\w-]{4,}")
_NAMED_FOR_ONE = re.compile(r"(?:KEYS?|TOKEN|PASSWORD|SECRET)(?:_\d+)?$")
_IN_URL = re.compile(r"://[^:/@\s]+:(?P<password>[^@/\s]+)@")
_SHORTEST = 8
"""Characters of a value: a shorter one may be any word."""
_LEAST_DIFFERENT = 4
"""Different characters of a value: others are found in what fills a file."""
_LOG_FILE = re.compile(r"(?:^|[._-])(?:log|stderr|stdout|output|err|out)(?:\.(?:\d+|txt|json))?$")
_BROWSER = re.compile(r"run-driver")
"""Whose pipes carry what a test types: Playwright's."""
_TABLE = re.compile(r"\d{6}\.log")
"""A file of RocksDB, in which Ray's head keeps its tables: no log."""
_LARGEST = 32 * 1024 * 1024
_LONGEST_LINE = 300

_values: dict[str, str] = {}
"""Secrets, and what they are, of those that aren't known by their looks."""
_heard: defaultdict[str, list[str]] = defaultdict(list)
"""What was written since the last search, by where it was."""


def register(kind: str, value: str) -> None:
    """Let nothing write this value from now on."""
    is_secret = len(value) >= _SHORTEST and len({*value}) >= _LEAST_DIFFERENT
    if is_secret and not _BY_LOOKS.fullmatch(value):
        _values[value] = kind


def register_environment(environ: Mapping[str, str]) -> None:
    """Register the variables that are named for a secret, and the passwords in URLs."""
    for name, value in environ.items():
        if _NAMED_FOR_ONE.search(name):
            for one in value.split(","):
                register(f"the value of {name}", one.strip())
        if "://" in value:
            register_url(value)


def register_url(url: str) -> None:
    for found in _IN_URL.finditer(url):
        register("the password of a URL", found["password"])


def note(where: str, text: str | bytes) -> None:
    """Have this searched as something that was written."""
    if text:
        _heard[where].append(text if isinstance(text, str) else text.decode(errors="replace"))


def note_command(args: Any, output: str | bytes, errors: str | bytes) -> None:
    """Note what a command wrote. Some are meant to write a secret, once, to standard output."""
    if not _hands_out_secrets(args):
        note(f"the stdout of {_program(args)}", output)
    note(f"the stderr of {_program(args)}", errors)


def leaks_in(where: str, text: str) -> Iterator[str]:
    """A sentence for each secret in a text, with its line, in which it is masked."""
    found = {
        one[0]: "a key" if one["key"] else "a planted text" for one in _BY_LOOKS.finditer(text)
    }
    found.update({value: kind for value, kind in _values.items() if value in text})
    for value, kind in found.items():
        begin = text.rfind("\n", 0, text.index(value)) + 1
        line = text[begin : begin + _LONGEST_LINE].split("\n")[0]
        for secret in found:
            line = line.replace(secret, f"{secret[:3]}***")
        yield f"{kind} is in {where}: {line}"


# What is listened to -----------------------------------------------------------------------------


def _listen_to_loggers(patched: pytest.MonkeyPatch) -> None:
    handle = logging.Logger.handle

    def handle_and_note(logger: logging.Logger, record: logging.LogRecord) -> None:
        fields = vars(record).get("fields", "")
        traceback = record.exc_info and logging.Formatter().formatException(record.exc_info)
        note("a log record", f"{record.name} {record.getMessage()} {fields} {traceback or ''}\n")
        handle(logger, record)

    patched.setattr(logging.Logger, "handle", handle_and_note)


def _listen_to_capture(patched: pytest.MonkeyPatch) -> None:
    read = pytest.CaptureFixture.readouterr

    def read_and_note(fixture: Any) -> Any:
        captured = read(fixture)
        note_command(sys.argv, captured.out, captured.err)
        return captured

    patched.setattr(pytest.CaptureFixture, "readouterr", read_and_note)


def _listen_to_children(patched: pytest.MonkeyPatch) -> None:
    begin, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate

    def begin_and_register(
        popen: Any, args: Any, *more: Any, env: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        register_environment(_as_text(env if env is not None else os.environ))
        begin(popen, args, *more, env=env, **options)
        for name in ("stdout", "stderr"):
            raw = _raw(getattr(popen, name))
            if isinstance(raw, _NotingPipe) and not (name == "stdout" and _hands_out_secrets(args)):
                raw.where = f"the {name} of {_program(args)}"

    def communicate_and_note(popen: Any, *arguments: Any, **options: Any) -> Any:
        out, err = communicate(popen, *arguments, **options)
        note_command(popen.args, out or "", err or "")
        return out, err

    patched.setattr(subprocess.Popen, "__init__", begin_and_register)
    patched.setattr(subprocess.Popen, "communicate", communicate_and_note)
    patched.setattr(subprocess, "io", _NotingIo())

    protocol = asyncio.subprocess.SubprocessStreamProtocol
    receive = protocol.pipe_data_received

    def receive_and_note(self: Any, fd: int, data: bytes | str) -> None:
        transport = getattr(self, "_transport", None)
        child = None if transport is None else transport.get_extra_info("subprocess")
        program = "" if child is None else _program(child.args)
        if not _BROWSER.search(program):
            note(f"descriptor {fd} of {program or 'a child'}", data)
        receive(self, fd, data)

    patched.setattr(protocol, "pipe_data_received", receive_and_note)


class _NotingPipe(io.FileIO):
    """A pipe from a child: what is read from it is noted."""

    where = ""

    def readinto(self, buffer: Any) -> int | None:
        size = super().readinto(buffer)
        if size and self.where:
            note(self.where, bytes(memoryview(buffer)[:size]))
        return size


class _NotingIo:
    """The module ``io`` as ``subprocess`` sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(io, name)

    def open(self, file: int, mode: str, bufsize: int = -1) -> Any:
        if mode != "rb":
            return open(file, mode, bufsize)
        pipe = _NotingPipe(file, "rb")
        return pipe if bufsize == 0 else io.BufferedReader(pipe)


def _raw(stream: Any) -> Any:
    return getattr(getattr(stream, "buffer", stream), "raw", stream)


def _listen_to_answers(patched: pytest.MonkeyPatch) -> None:
    read = aiohttp.ClientResponse.read

    async def read_and_note(response: aiohttp.ClientResponse) -> bytes:
        body = await read(response)
        if response.status >= 400:
            note("an error's body", body)
        elif response.url.path.endswith("/metrics"):
            note("the metrics", body)
        return body

    patched.setattr(aiohttp.ClientResponse, "read", read_and_note)


def _hands_out_secrets(args: Any) -> bool:
    words = [os.fsdecode(one) for one in args] if isinstance(args, Sequence) else []
    makes = "keys" in words and not {"create", "rotate"}.isdisjoint(words)
    return makes or {"cluster", "token"} <= {*words}


def _program(args: Any) -> str:
    words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
    first = [Path(os.fsdecode(words[0])).name, *(os.fsdecode(one) for one in words[1:4])]
    return " ".join(word for word in first if len(word) < 40)


def _as_text(environ: Mapping[Any, Any]) -> dict[str, str]:
    return {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()}


# pytest's hooks ----------------------------------------------------------------------------------

_FOUND = pytest.StashKey[list[str]]()
"""What was found after the tests, in this process and in those that ran tests for it."""
_PATCHED = pytest.StashKey[pytest.MonkeyPatch]()


def pytest_configure(config: pytest.Config) -> None:
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)  # it would log each statement
    config.stash[_FOUND] = []
    patched = config.stash[_PATCHED] = pytest.MonkeyPatch()
    _listen_to_loggers(patched)
    _listen_to_capture(patched)
    _listen_to_children(patched)
    _listen_to_answers(patched)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_PATCHED].undo()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    try:
        yield
    finally:
        register_environment(os.environ)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Fail a test, at its very end, that had something write a secret."""
    report: pytest.TestReport = yield
    if call.when != "teardown":
        return report
    for _, channel, text in item._report_sections:
        if channel != "log":  # its records were heard
            note(f"captured {channel}", text)
    found = list(_search())
    if found and report.passed:
        report.outcome = "failed"
        report.longrepr = "\n".join(["Secrets were written:", *found])
    return report


def _search() -> Iterator[str]:
    heard = [(where, "".join(texts)) for where, texts in _heard.items()]
    _heard.clear()
    for where, text in heard:
        yield from leaks_in(where, text)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    found = [*_search(), *_leaks_in_files(_folder(config))]
    if hasattr(config, "workeroutput"):
        config.workeroutput["leaks"] = found
    config.stash[_FOUND] += found
    if config.stash[_FOUND] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_FOUND] += getattr(node, "workeroutput", {}).get("leaks", [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if found := config.stash[_FOUND]:
        terminalreporter.section("secrets in logs", red=True)
        for one in found:
            terminalreporter.line(one)


def _folder(config: pytest.Config) -> Path | None:
    """The folder of this process's tests, if one of them had any."""
    factory = getattr(config, "_tmp_path_factory", None)
    return getattr(factory, "_basetemp", None)


def _leaks_in_files(folder: Path | None) -> Iterable[str]:
    if folder is None:
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            if not _LOG_FILE.search(name) or _TABLE.fullmatch(name):
                continue
            if file.is_file() and file.stat().st_size <= _LARGEST:
                where = f"the file {file.relative_to(folder)}"
                yield from leaks_in(where, file.read_text(errors="replace"))
