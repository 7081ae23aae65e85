"""Which tests start something: ``make check`` runs those that don't.

Rule 1: a test with none of the marks ``integration``, ``real`` and ``postgres`` starts no server
and no process. One that does fails at once, and says which mark it lacks.

Rule 2: what shows by a test's folder or its fixtures is marked here. The rest is marked by hand.
"""

from __future__ import annotations

import multiprocessing.process
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_FOLDERS = {"contract": "real", "faults": "integration"}
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
}
_ENGINE_CHILD = "reverie.runner.child"


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in _FOLDERS:
            item.add_marker(_FOLDERS[folder])
        used = set(getattr(item, "fixturenames", ()))
        for mark, fixtures in _FIXTURES.items():
            if used & fixtures:
                item.add_marker(mark)
        if _is_marked(item, "real") or _is_marked(item, "postgres"):
            item.add_marker("integration")


@pytest.fixture(autouse=True)
def _starts_only_what_its_marks_say(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rule 1, and that only a ``real`` test starts the embedded engine."""
    if _is_marked(request.node, "real"):
        yield
        return
    with pytest.MonkeyPatch.context() as patched:
        start = subprocess.Popen.__init__
        if _is_marked(request.node, "integration"):
            patched.setattr(subprocess.Popen, "__init__", _no_engine(start))
        else:
            patched.setattr(subprocess.Popen, "__init__", _refused("start a process"))
            patched.setattr(
                multiprocessing.process.BaseProcess, "start", _refused("start a process")
            )
            patched.setattr(socket.socket, "listen", _refused("listen on a socket"))
        yield


def _is_marked(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None


def _refused(what: str) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail(f"only a test with `pytest.mark.integration` may {what}")

    return refuse


def _no_engine(start: Callable[..., None]) -> Callable[..., None]:
    def start_other(popen: Any, args: Any, *more: Any, **options: Any) -> None:
        if _ENGINE_CHILD in args:
            pytest.fail("only a test with `pytest.mark.real` may start the embedded engine")
        start(popen, args, *more, **options)

    return start_other
