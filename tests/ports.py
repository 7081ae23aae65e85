"""Ports for servers that can't choose one themselves.

They aren't among those that the kernel gives away: between the look at a port and its server's
start, another process could get it. Nor do tests that run at once share any.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import ExitStack, suppress

_FIRST, _LAST = 4000, 9999
_PROCESSES = 16
"""Of tests at once, each of which has ports of its own."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    own = range(_FIRST + int(worker) % _PROCESSES, _LAST, _PROCESSES)
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.sample(own, len(own)):
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports")


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    return free_ports(1)[0]
