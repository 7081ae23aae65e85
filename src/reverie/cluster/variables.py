"""The environment of a cluster's processes: what Ray reads of it, and what Reverie does.

Rule: Ray reads its variables when it is imported or started, and never again. They are set before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

TOKEN = "REVERIE_CLUSTER_TOKEN"
"""The cluster's token, for whoever connects to it."""
PORTS = "REVERIE_CLUSTER_PORTS"
"""``FIRST-LAST``: the ports on which engines of this machine may listen; none: any."""
TLS_CERT = "REVERIE_CLUSTER_TLS_CERT"
TLS_KEY = "REVERIE_CLUSTER_TLS_KEY"
TLS_CA = "REVERIE_CLUSTER_TLS_CA"

RECONNECT_SECONDS = 600
"""How long machines and gateways go on without their head. Then Ray ends all of its processes."""


class TlsFiles(NamedTuple):
    """One machine's certificate and its key, and what signed the certificates of all."""

    cert: str
    key: str
    ca: str


def ray_environment(token: str, tls: TlsFiles | None) -> dict[str, str]:
    """What every process that speaks to Ray needs: machines, and who connects to them."""
    found = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_SECONDS),
    }
    if tls is not None:
        found |= {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": tls.cert,
            "RAY_TLS_SERVER_KEY": tls.key,
            "RAY_TLS_CA_CERT": tls.ca,
        }
    return found


def machine_environment(
    token: str, tls: TlsFiles | None, ports: range | None = None
) -> dict[str, str]:
    """What a machine's Ray needs, and what the engines that it starts learn from it."""
    found = ray_environment(token, tls)
    if ports:
        found[PORTS] = f"{ports[0]}-{ports[-1]}"
    if tls is not None:
        found |= {TLS_CERT: tls.cert, TLS_KEY: tls.key, TLS_CA: tls.ca}
    return found


def head_environment(storage: str | None) -> dict[str, str]:
    """What the head's Ray needs besides.

    A machine is dead once three health checks in a row failed: after 3 s at most, where Ray itself
    takes 15 s. Meanwhile engines would be placed on it.

    Args:
        storage: a folder in which it keeps what it knows, so that engines outlive its restart;
            None: it forgets all.
    """
    found = {
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    if storage is not None:
        found |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": storage}
    return found


def engine_ports(environ: Mapping[str, str]) -> range | None:
    """The ports on which engines of this machine may listen; None: any."""
    first, _, last = environ.get(PORTS, "").partition("-")
    return range(int(first), int(last) + 1) if first else None


def tls_files(environ: Mapping[str, str]) -> TlsFiles | None:
    """This machine's files, where its cluster speaks TLS."""
    if not environ.get(TLS_CERT):
        return None
    return TlsFiles(environ[TLS_CERT], environ[TLS_KEY], environ[TLS_CA])
