"""Which tests start something: ``make check`` runs those that don't.

Rule 1: a test with none of the marks ``integration``, ``real``, ``postgres``, ``cluster`` and
``browser`` starts no server and no process. One that does fails at once, and says which mark it
lacks.

Rule 2: what shows by a test's folder or its fixtures is marked here. The rest is marked by hand.
"""

from __future__ import annotations

import multiprocessing.process
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

_FOLDERS = {"contract": "real", "faults": "integration", "browser": "browser"}
_FIXTURES = {
    "integration": {
        "gateway",
        "start_gateway",
        "engine",
        "start_engine",
        "engines",
        "server",
        "hub",
        "start_runner",
    },
    "real": {"model", "real", "served", "keyed"},
    "postgres": {"postgres", "postgres_database", "own_postgres"},
    "cluster": {"cluster"},
}
_ENGINE_CHILD = "reverie.runner.child"
_STARTERS: tuple[tuple[type, str, str], ...] = (
    (subprocess.Popen, "__init__", "start a process"),
    (multiprocessing.process.BaseProcess, "start", "start a process"),
    (socket.socket, "listen", "listen on a socket"),
)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, mark in _FOLDERS.items():
            if folder in item.path.parent.parts:
                item.add_marker(mark)
        used = set(getattr(item, "fixturenames", ()))
        for mark, fixtures in _FIXTURES.items():
            if used & fixtures:
                item.add_marker(mark)
        if any(_is_marked(item, mark) for mark in ("real", "postgres", "browser", "cluster")):
            item.add_marker("integration")


@pytest.fixture(autouse=True)
def _starts_only_what_its_marks_say(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rule 1, and that only a ``real`` test starts the embedded engine."""
    if _is_marked(request.node, "real"):
        yield
        return
    refused: list[str] = []

    def refuse(mark: str, what: str) -> None:
        refused.append(f"only a test with `pytest.mark.{mark}` may {what}")
        pytest.fail(refused[0])

    def start_no_engine(popen: Any, args: Any, *more: Any, **options: Any) -> None:
        if _ENGINE_CHILD in args:
            refuse("real", "start the embedded engine")
        start(popen, args, *more, **options)

    start = subprocess.Popen.__init__
    with pytest.MonkeyPatch.context() as patched:
        if _is_marked(request.node, "integration"):
            patched.setattr(subprocess.Popen, "__init__", start_no_engine)
        else:
            for kind, method, what in _STARTERS:
                patched.setattr(
                    kind, method, lambda *_, what=what, **__: refuse("integration", what)
                )
        yield
    if refused:  # what was started may have taken that for a failure of its own
        pytest.fail(refused[0])


def _is_marked(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None
