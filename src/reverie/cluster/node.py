"""Runs Ray on this machine, as a process of its own, until it is told to end. Imports Ray.

It tells its parent what happens by one JSON message a line on standard output.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from reverie.cluster.connection import look_for_place
from reverie.cluster.node_folder import remove_old_logs
from reverie.cluster.node_messages import Event, Failed, HeadBack, HeadLost, PartDied, Started
from reverie.cluster.node_options import NodeOptions
from reverie.errors import ClusterError
from reverie.runner.guard import die_with_parent

_LOOK_EVERY = 0.5
_ASK_HEAD_EVERY = 5.0
_TIDY_EVERY = 600.0
_NAMES = {"gcs_server": "the head's own process", "raylet": "Ray's process"}


def main() -> None:
    options = msgspec.json.decode(sys.argv[1], type=NodeOptions)
    die_with_parent(int(sys.argv[2]))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Ray writes to standard output as it likes
    try:
        if not options.is_head:
            token = os.environ["RAY_AUTH_TOKEN"]
            look_for_place(options.head, options.host, token, options.tls)
    except ClusterError as error:
        _tell(out, Failed(str(error)))
        os._exit(1)  # Ray's threads may be waiting for the network
    os.environ.pop("RAY_BACKEND_LOG_LEVEL", None)  # that was for the look: Ray's logs are wanted
    _run(options, out)


def _run(options: NodeOptions, out: BinaryIO) -> None:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class NodeWithoutDashboard(Node):  # type: ignore[misc]
        def start_api_server(self, **_: Any) -> None:
            """Its process takes 100 MB, and nobody asks it, even where no dashboard is wanted."""

    try:
        node = NodeWithoutDashboard(RayParams(**options.parameters()), head=options.is_head)
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        _tell(out, Failed(f"Ray doesn't start on this machine: {why}"))
        sys.exit(1)  # and Ray's own handlers end what has been started
    logs = os.path.join(options.folder, "session_latest", "logs")
    _tell(out, Started(logs))
    if not options.is_head:
        threading.Thread(target=_watch_head, args=(options.head, out), daemon=True).start()
    threading.Thread(target=_keep_few_logs, args=(Path(logs),), daemon=True).start()
    while not (dead := node.dead_processes()):
        time.sleep(_LOOK_EVERY)
    _tell(out, PartDied(", ".join(_NAMES.get(kind, kind) for kind, _ in dead)))
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(1)


def _keep_few_logs(logs: Path) -> None:
    while True:
        time.sleep(_TIDY_EVERY)
        with contextlib.suppress(OSError):
            remove_old_logs(logs)


def _watch_head(head: str, out: BinaryIO) -> None:
    """Tell when the head stops answering, and when it answers again."""
    from ray._raylet import GcsClient

    client = GcsClient(address=head)
    answers = True
    while True:
        time.sleep(_ASK_HEAD_EVERY)
        try:
            client.internal_kv_get(b"session_name", b"session", timeout=_ASK_HEAD_EVERY)
            now = True
        except Exception:  # whatever Ray raises
            now = False
        if now != answers:
            answers = now
            _tell(out, HeadBack() if now else HeadLost())


def _tell(out: BinaryIO, event: Event) -> None:
    out.write(msgspec.json.encode(event) + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
