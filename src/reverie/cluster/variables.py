"""The environment in which processes of a cluster find each other, and what engines learn from it.

How a machine's Ray is started stands in ``node_options``; this is for whoever connects to it, and
for the engines that it starts, which inherit its environment.
"""

from __future__ import annotations

from collections.abc import Mapping

from reverie.cluster.node_options import (
    PORTS_VARIABLE,
    RECONNECT_SECONDS,
    TLS_VARIABLES,
    Ports,
    ray_access,
)
from reverie.cluster.tls import TlsFiles
from reverie.cluster.token import TOKEN_VARIABLE


def driver_environment(token: str, tls: TlsFiles | None) -> dict[str, str]:
    """What Ray reads when it is imported by a process that is going to connect."""
    return {
        **ray_access(token, tls),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_SECONDS),
    }


def child_variables(token: str, tls: TlsFiles | None) -> dict[str, str]:
    """What a gateway's child reads with ``token_of`` and ``tls_files``."""
    return {TOKEN_VARIABLE: token, **dict(zip(TLS_VARIABLES, tls or (), strict=False))}


def token_of(environ: Mapping[str, str]) -> str:
    """The token, in a gateway's child."""
    return environ[TOKEN_VARIABLE]


def tls_files(environ: Mapping[str, str]) -> TlsFiles | None:
    """This machine's files, where its cluster speaks TLS."""
    files = [environ.get(name, "") for name in TLS_VARIABLES]
    return TlsFiles(*files) if all(files) else None


def engine_ports(environ: Mapping[str, str]) -> range | None:
    """The ports on which engines of this machine may listen; None: any."""
    if not environ.get(PORTS_VARIABLE):
        return None
    ports = Ports.parse(environ[PORTS_VARIABLE])
    return range(ports.first, ports.last + 1)
