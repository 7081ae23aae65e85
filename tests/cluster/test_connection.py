"""Why a cluster can't be used, in one sentence each, within the deadline."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from reverie.cluster import connection
from reverie.cluster.connection import Versions, look
from reverie.errors import ClusterError

pytestmark = pytest.mark.integration

TOKEN = "a-token-for-tests"
Serve = Callable[[bytes | None], AbstractContextManager[str]]


@pytest.fixture(autouse=True)
def _environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


@contextmanager
def someone(answer: bytes | None) -> Iterator[str]:
    """A server that answers this; None: it says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                if answer is not None:
                    held[-1].sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in held:
                one.close()


def why_not(address: str, deadline: float = 5.0) -> str:
    began = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        look(address, TOKEN, deadline=deadline)
    assert time.monotonic() - began < deadline + 2  # Ray is imported first
    return str(caught.value)


def test_nobody_listens() -> None:
    assert why_not("127.0.0.1:9") == (
        "The cluster at 127.0.0.1:9 can't be reached: Connection refused."
    )


def test_there_is_no_such_host() -> None:
    assert "Name or service not known" in why_not("nowhere.invalid:6379")


def test_someone_listens_and_says_nothing() -> None:
    with someone(None) as address:
        assert why_not(address, 1.0).endswith("can't be reached: nobody answers there.")


def test_what_answers_is_something_else() -> None:
    with someone(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert f"What answers at {address} is no head of a cluster" in why_not(address)


def test_another_version_of_ray_is_named_with_what_to_install() -> None:
    with pytest.raises(ClusterError, match=r'Ray 2\.59\.1, .*pip install "ray==2\.59\.1"'):
        connection._require_same(Versions("2.59.1", "3.11.7"))


def test_another_version_of_python_is_named() -> None:
    import ray._version

    with pytest.raises(ClusterError, match=r"The cluster runs Python 3\.9\.1"):
        connection._require_same(Versions(ray._version.version, "3.9.1"))
