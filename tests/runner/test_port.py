"""Ports that engines of one machine have to themselves."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from reverie.errors import ModelError
from reverie.runner.port import Port, can_listen

HOST = "127.0.0.1"

pytestmark = pytest.mark.integration


@pytest.fixture
def ports() -> Iterator[range]:
    """Two ports in a row that nobody has."""
    for first in range(20000, 21000, 2):
        if all(can_listen(HOST, port) for port in (first, first + 1)):
            yield range(first, first + 2)
            return
    raise AssertionError("no free ports")


def listen(port: int) -> socket.socket:
    """Listen there as engines do, and beside connections that have ended."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen()
    return listener


def test_each_gets_the_first_that_is_free_and_keeps_it(ports: range) -> None:
    first, second, third = Port(HOST, ports), Port(HOST, ports), Port(HOST, ports)
    assert [first.take(), second.take()] == list(ports)
    with pytest.raises(ModelError, match=f"No port from {ports[0]} to {ports[1]} of 127.0.0.1"):
        third.take()
    for _ in range(2):  # its engine ends, and is started again
        listen(first.number).close()
        assert first.take() == ports[0]
    first.release()
    first.release()
    assert third.take() == ports[0]
    second.release()
    third.release()


def test_one_that_others_listen_on_is_left_out(ports: range) -> None:
    with listen(ports[0]):
        port = Port(HOST, ports)
        assert port.take() == ports[1]
        port.release()


def test_one_that_was_taken_meanwhile_is_replaced() -> None:
    port = Port(HOST)
    before = port.take()
    with listen(before):
        assert port.take() != before
    port.release()


def test_another_process_gets_another_one(ports: range) -> None:
    port = Port(HOST, ports)
    assert port.take() == ports[0]
    code = f"from reverie.runner.port import Port; print(Port({HOST!r}, {ports!r}).take())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == ports[1]
    port.release()


def test_one_with_connections_that_have_just_ended_can_be_had(ports: range) -> None:
    with listen(ports[0]) as listener, socket.create_connection(listener.getsockname()) as client:
        served, _ = listener.accept()
        served.close()  # first, so that it is what waits
        assert client.recv(1) == b""
    port = Port(HOST, ports)
    assert port.take() == ports[0]
    port.release()


def test_listens_there_itself() -> None:
    port = Port(HOST)
    with port.listen() as listener:
        assert listener.getsockname() == (HOST, port.number)
        assert not can_listen(HOST, port.number)
    port.release()


def test_a_foreign_address_is_told() -> None:
    for host in ("192.0.2.7", "no-such-host.invalid"):
        with pytest.raises(ModelError, match=f"^{host} is no address of this machine.$"):
            Port(host).take()
