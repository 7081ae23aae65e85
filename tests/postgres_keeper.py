"""Runs a PostgreSQL server that ends, with its directory, when standard input ends.

A process of its own stands between the tests and the server, so that the server is gone even
after ``kill -9`` of the tests: the end of a pipe can't be missed. It is run by its path, and
needs only the standard library: ``python postgres_keeper.py DIRECTORY postgres ARGUMENT…``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


def as_owner(directory: Path) -> dict[str, Any]:
    """The arguments of ``Popen`` that make a process the one of the directory's owner.

    PostgreSQL refuses to run as root, so root gives the directory to another user.
    """
    status = directory.stat()
    if status.st_uid == os.geteuid():
        return {}
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """This process's own, less what would change the settings of a server or a client."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def keep(directory: Path, command: list[str]) -> None:
    """Run the server to its end."""
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        cwd=directory,
        env=environment(),
        **as_owner(directory),
    )
    ended = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        ended.set()
        # An immediate shutdown: the server kills those of its processes that don't end, too.
        server.send_signal(signal.SIGQUIT)
        server.send_signal(signal.SIGCONT)

    threading.Thread(target=watch, daemon=True).start()
    server.wait()
    if ended.is_set():
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2:])
