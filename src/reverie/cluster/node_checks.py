"""What must be so before Ray is started on a machine, each told in one sentence where it isn't."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import socket
import sys

from reverie.addresses import is_loopback
from reverie.cluster.node_options import NodeOptions
from reverie.errors import ConfigurationError

_ANYWHERE = ("198.51.100.1", 9)
"""An address that no machine has (RFC 5737): which of ours would be used to reach others?"""
_REWRITTEN = frozenset(("127.0.0.1", "::1"))
INSTALL = 'Ray is not installed here: pip install "reverie[cluster]"'


def require_ray() -> None:
    """
    Raises:
        ConfigurationError: this installation can't be part of a cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError([INSTALL])


def require_linux() -> None:
    """
    Raises:
        ConfigurationError: Ray makes clusters of several machines on Linux only.
    """
    if sys.platform != "linux":
        raise ConfigurationError(["the machines of a cluster need Linux"])


def own_address(given: str | None, toward: str | None = None) -> str:
    """The address by which other machines reach this one.

    Args:
        given: by the operator.
        toward: an address that this machine must reach; None: any.

    Raises:
        ConfigurationError: it can't be one, or none is found.
    """
    if given is None:
        return _address_on_route(toward)
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        raise ConfigurationError(
            [f"--host: {given} is not an address: give the one that other machines reach"]
        ) from None
    if address.is_unspecified:
        raise ConfigurationError(
            [f"--host: {given} is every address: give the one that other machines reach"]
        )
    if given in _REWRITTEN:
        raise ConfigurationError(
            [
                f"--host: no other machine reaches {given}, and Ray replaces it: to try a cluster "
                "on one machine, give 127.0.0.2 to the head, and 127.0.0.3 to another"
            ]
        )
    return given


def _address_on_route(toward: str | None) -> str:
    try:
        target = (toward, 9) if toward else _ANYWHERE
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect(target)  # sends nothing
            found: str = asking.getsockname()[0]
    except OSError:
        found = ""
    if not found or (is_loopback(found) and not (toward and is_loopback(toward))):
        raise ConfigurationError(
            ["--host: this machine has no route to others: give the address that they reach"]
        )
    if found in _REWRITTEN:
        raise ConfigurationError(
            ["--host: the head is on this machine: give an address of its own, as 127.0.0.3"]
        )
    return found


def resolve(host: str) -> str:
    """The address of a host.

    Raises:
        ConfigurationError: it has none.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigurationError([f"{host}: no machine has this name ({error.strerror})"]) from None
    return str(found[0][4][0])


def require_free(options: NodeOptions) -> None:
    """Take each port that Ray needs, and let it go.

    Raises:
        ConfigurationError: one is in use, or the address isn't this machine's.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    problems = []
    if _bind(family, options.host, 0) is not None:
        problems.append(f"--host: {options.host} is not an address of this machine")
    taken: dict[str, list[str]] = {}
    for name, port in options.service_ports.items():
        if _bind(family, "", port) == errno.EADDRINUSE:
            taken.setdefault("--port" if name == "gcs_server_port" else "--ports", []).append(
                str(port)
            )
    for option, ports in taken.items():
        problems.append(f"{option}: in use by another program: {', '.join(ports)}: choose others")
    if problems:
        raise ConfigurationError(problems)


def _bind(family: socket.AddressFamily, host: str, port: int) -> int | None:
    """Why nothing can listen there: an error's number."""
    with socket.socket(family, socket.SOCK_STREAM) as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind((host, port))
        except OSError as error:
            return error.errno
    return None
