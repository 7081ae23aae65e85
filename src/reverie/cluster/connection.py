"""Connects to a cluster within a deadline, or says in one sentence why not.

Ray itself tries a wrong token, or an address where nobody is, again and again for minutes, and may
then end the process. So this looks first: is anybody there, is it Ray, does it take our token, are
its versions ours, and is this machine part of it?

Rule: a driver, which is what Ray calls a process that connects, needs a raylet on its own machine:
it speaks to that over a Unix socket, and through shared memory. So each gateway's machine, and each
on which ``reverie cluster status`` is run, is a member of the cluster, maybe one with no engines
(``reverie cluster join HOST --engines 0``). To look whether a cluster can be reached needs none.

Ray is imported here inside functions, so that a command can tell that it isn't installed, and so
that its environment is set before.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from reverie.cluster.tls import TlsFiles
from reverie.cluster.variables import driver_environment
from reverie.errors import ClusterError

NAMESPACE = "reverie"
DEADLINE = 5.0
"""Seconds to find out whether a cluster can be used."""
_DRIVER_DEADLINE = 30.0
"""Seconds to become a part of one that can: starting Ray's own threads takes one or more."""

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How each HTTP/2 client begins: with the preface, and with settings that change nothing."""
_SETTINGS = 4
"""The type of the frame with which each HTTP/2 server begins."""

T = TypeVar("T")


class Versions(NamedTuple):
    """What all machines of a cluster, and whoever connects to it, have in common."""

    ray: str
    python: str


class ManagerAway(Exception):
    """The manager doesn't answer now, and may soon. The text says why, for the operator.

    ``ended``: this one won't; ``RemoteManager.find`` may find another.
    """

    def __init__(self, why: str, *, ended: bool = False) -> None:
        super().__init__(why)
        self.ended = ended


class _TimedOut(Exception):
    pass


def look(
    address: str, token: str, tls: TlsFiles | None = None, *, deadline: float = DEADLINE
) -> Versions:
    """Find out whether a cluster can be used with this token, without becoming a part of it.

    Args:
        address: the head's ``HOST:PORT``.

    Raises:
        ClusterError
    """
    with _quiet():
        versions, _ = _look(address, token, tls, time.monotonic() + deadline)
    return versions


def look_for_place(address: str, host: str, token: str, tls: TlsFiles | None = None) -> None:
    """Find out whether this machine can join with this address. Ray would take it in twice, and
    each would promise all of the machine's memory.

    Raises:
        ClusterError
    """
    with _quiet():
        _, gcs = _look(address, token, tls, time.monotonic() + DEADLINE)
    for node in _living(address, gcs, time.monotonic() + DEADLINE):
        # One that was killed is missed only after seconds.
        if node.node_manager_address == host and _listens(host, node.node_manager_port):
            raise ClusterError(
                f"{host} is part of this cluster already: end the `reverie cluster` command that "
                "runs there, or give this one an address of its own with --host."
            )


def connect(
    address: str, token: str, tls: TlsFiles | None = None, *, deadline: float = DEADLINE
) -> Versions:
    """Make this process a driver of the cluster: from now on it may use ``RemoteManager``.

    A process can do so once. It is ended by Ray when it has missed the head for
    ``RECONNECT_SECONDS``, or this machine's raylet at all.

    Raises:
        ClusterError
    """
    until = time.monotonic() + deadline
    with _quiet():
        versions, gcs = _look(address, token, tls, until)
    _require_membership(address, gcs, until)

    def init() -> None:
        import ray

        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )

    try:
        _within(time.monotonic() + _DRIVER_DEADLINE, init)
    except _TimedOut:
        raise ClusterError(
            f"This machine's part of the cluster at {address} doesn't answer: look whether "
            "`reverie cluster` still runs here."
        ) from None
    except Exception as error:
        raise ClusterError(
            f"Ray could not connect to the cluster at {address}: {_first_line(error)}"
        ) from error
    return versions


def _look(address: str, token: str, tls: TlsFiles | None, until: float) -> tuple[Versions, Any]:
    _import_ray(token, tls)
    _require_an_answer(address, tls, until)
    gcs, metadata = _ask_head(address, until)
    theirs = Versions(metadata["ray_version"], metadata["python_version"])
    _require_same(theirs)
    return theirs, gcs


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from writing its warnings to standard error: what is wrong is told by us.

    Not longer: who starts a machine hands its environment on to that.
    """
    level = "RAY_BACKEND_LOG_LEVEL"
    before = os.environ.get(level)
    os.environ[level] = before or "error"
    try:
        yield
    finally:
        if before is None:
            del os.environ[level]


def _import_ray(token: str, tls: TlsFiles | None) -> None:
    os.environ.update(driver_environment(token, tls))
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        import ray  # noqa: F401
    except ImportError as error:
        if error.name != "ray":
            raise ClusterError(f"Ray is installed, but can't be used here: {error}.") from error
        raise ClusterError(
            'Ray is not installed here: run `pip install "reverie[cluster]"`.'
        ) from None


def _require_an_answer(address: str, tls: TlsFiles | None, until: float) -> None:
    """Raise unless an HTTP/2 server is there, which speaks TLS just if we do."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _left(until)) as plain:
            plain.settimeout(_left(until))
            with _secured(plain, tls) as connection:
                connection.sendall(_HELLO)
                answer = connection.recv(9)
    except ssl.SSLError as error:
        raise ClusterError(
            f"The head at {address} could not be reached over TLS ({error.reason}): it has to "
            "speak TLS as well, and tls_ca has to have signed its certificate and this machine's."
        ) from None
    except TimeoutError:
        raise ClusterError(_unreachable(address, "nobody answers there")) from None
    except OSError as error:
        raise ClusterError(_unreachable(address, error.strerror or str(error))) from None
    if len(answer) >= 4 and answer[3] == _SETTINGS:
        return
    if tls is not None:  # it may say so only now
        raise ClusterError(
            f"What answers at {address} refuses this machine's certificate, or is no head of a "
            "cluster: look at the address, and whether the head's --tls-ca has signed tls_cert."
        )
    raise ClusterError(
        f"What answers at {address} is no head of a cluster, or one that speaks TLS: look at the "
        "address, and set tls_cert, tls_key and tls_ca if the head was started with them."
    )


def _secured(plain: socket.socket, tls: TlsFiles | None) -> socket.socket:
    if tls is None:
        return plain
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = False  # that is for Ray to decide
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(plain)


def _ask_head(address: str, until: float) -> tuple[Any, dict[str, str]]:
    """A client of the head's table of everything, and what it says of its versions."""
    from ray._raylet import GcsClient
    from ray.exceptions import AuthenticationError, RayError

    def ask() -> tuple[Any, bytes | None]:
        gcs = GcsClient(address=address)
        return gcs, gcs.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=_left(until))

    try:
        gcs, metadata = _within(until, ask)
    except AuthenticationError:
        raise ClusterError(
            f"The cluster at {address} refuses this token: copy the one that `reverie cluster "
            "head` made there."
        ) from None
    except _TimedOut:
        raise ClusterError(_unreachable(address, "it doesn't answer")) from None
    except RayError as error:
        raise ClusterError(_unreachable(address, _first_line(error))) from None
    if metadata is None:  # its first moments
        raise ClusterError(_unreachable(address, "it has not started yet"))
    return gcs, json.loads(metadata)


def _require_same(theirs: Versions) -> None:
    import ray

    ours = Versions(ray.__version__, platform.python_version())
    if ours.ray != theirs.ray:
        raise ClusterError(
            f"The cluster runs Ray {theirs.ray}, and this machine has {ours.ray}: install the same "
            f'version here (`pip install "ray=={theirs.ray}"`), or on all of its machines.'
        )
    if ours.python != theirs.python:
        raise ClusterError(
            f"The cluster runs Python {theirs.python}, and this is {ours.python}: Ray needs the "
            "very same one on all machines, and for each gateway."
        )


def _require_membership(address: str, gcs: Any, until: float) -> None:
    """Raise unless a raylet of this cluster runs on this machine."""
    from ray._private.services import find_node_ids

    known = {node.node_id.hex() for node in _living(address, gcs, until)}
    try:
        ours = _within(until, find_node_ids)
    except Exception as error:
        raise ClusterError(_unreachable(address, _first_line(error))) from None
    member = not known.isdisjoint(ours)
    if not member:
        raise ClusterError(
            f"This machine isn't part of the cluster at {address}: keep `reverie cluster join "
            f"{address}` running here, with `--engines 0` if it is to run none."
        )


def _living(address: str, gcs: Any, until: float) -> list[Any]:
    """What the head tells of the machines that live."""
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    def ask() -> Any:
        return gcs.get_all_node_info(
            timeout=_left(until), state_filter=GcsNodeInfo.GcsNodeState.ALIVE
        )

    try:
        return list(_within(until, ask).values())
    except Exception as error:
        raise ClusterError(_unreachable(address, _first_line(error))) from None


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True


def _within(until: float, work: Callable[[], T]) -> T:
    """Do what may hang in a thread of its own, and wait for it only so long."""
    outcome: list[Callable[[], T]] = []

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            outcome.append(lambda error=error: _raise(error))  # type: ignore[misc]
        else:
            outcome.append(lambda: result)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_left(until))
    if not outcome:
        raise _TimedOut
    return outcome[0]()


def _raise(error: BaseException) -> Any:
    raise error


def _left(until: float) -> float:
    return max(0.1, until - time.monotonic())


def _unreachable(address: str, why: str) -> str:
    return f"The cluster at {address} can't be reached: {why.rstrip('.')}."


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
