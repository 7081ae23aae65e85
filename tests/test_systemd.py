"""Sockets that are handed over, and what a service manager is told."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reverie.addresses import is_loopback
from reverie.errors import ConfigurationError
from reverie.systemd import Notifier, host_and_port, most_public, take_sockets

pytestmark = pytest.mark.integration


def environ(count: object, pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": "a"}


def hand_over(given: socket.socket) -> int:
    """Its descriptor, which whoever takes it closes."""
    return given.detach()


def test_a_socket_that_is_handed_over_is_taken_once_and_by_no_child() -> None:
    variables = environ(1)
    first = hand_over(socket.create_server(("127.0.0.1", 0)))
    os.set_inheritable(first, True)
    [taken] = take_sockets(variables, first=first)
    with taken:
        assert not os.get_inheritable(taken.fileno())
        assert host_and_port(taken)[0] == "127.0.0.1"
        assert not taken.getblocking()
    assert variables == {}
    assert take_sockets(variables, first=first) == []


def test_sockets_of_another_process_are_left_alone_and_forgotten() -> None:
    variables = environ(1, pid=os.getpid() + 1)
    assert take_sockets(variables) == []
    assert variables == {}


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def one_connection() -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.close()
    return theirs


@pytest.mark.parametrize(
    ("make", "said"), [(datagrams, "it is no stream"), (one_connection, "it is one connection")]
)
def test_what_cannot_be_served_on_is_refused_with_a_sentence(make: object, said: str) -> None:
    first = hand_over(make())  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match=said) as refusal:
        take_sockets(environ(1), first=first)
    assert "ListenStream=" in str(refusal.value)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)


def test_a_file_in_a_sockets_place_is_refused(tmp_path: Path) -> None:
    first = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ConfigurationError, match="it is no socket"):
            take_sockets(environ(1), first=first)
    finally:
        os.close(first)


@pytest.mark.parametrize("count", ["-1", "many", "65", "", "9" * 5000, "٣"])
def test_a_number_of_sockets_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(ConfigurationError, match="LISTEN_FDS: must be a number"):
        take_sockets(environ(count))


def test_the_socket_that_others_reach_decides_whether_keys_are_needed(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as local,
        socket.create_server(("0.0.0.0", 0)) as public,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "s"))
        assert most_public([unix, local, public], is_loopback)[0] == "0.0.0.0"
        assert most_public([unix, local], is_loopback) == local.getsockname()
        assert most_public([unix], is_loopback) == ("127.0.0.1", 0)
        assert host_and_port(unix) == (str(tmp_path / "s"), 0)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(str(tmp_path / "notify"))
        receiving.settimeout(30)
        yield receiving


def test_a_reload_is_told_only_between_readiness_and_the_end(
    manager: socket.socket, tmp_path: Path
) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    notifier = Notifier(variables)
    assert variables == {}
    with notifier.reloading():
        pass
    notifier.ready()
    with notifier.reloading():
        notifier.stopping()
    with notifier.reloading():
        pass
    manager.setblocking(False)
    told = [manager.recv(4096).decode().split("\n")[0] for _ in range(3)]
    assert told == ["READY=1", "RELOADING=1", "STOPPING=1"]
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


async def test_a_watched_process_says_that_it_lives_for_as_long_as_its_loop_turns(
    manager: socket.socket, tmp_path: Path
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"})
    watching = asyncio.create_task(notifier.watch())
    for _ in range(3):
        assert await asyncio.to_thread(manager.recv, 4096) == b"WATCHDOG=1"
    watching.cancel()


@pytest.mark.parametrize(
    "variables", [{}, {"WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}]
)
async def test_nothing_is_told_where_nobody_wants_to_know(
    manager: socket.socket, tmp_path: Path, variables: dict[str, str]
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), **variables})
    assert not notifier.is_watched
    await notifier.watch()
    Notifier({}).ready()


def test_a_manager_that_is_gone_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "the service manager can't be told" in caplog.text
