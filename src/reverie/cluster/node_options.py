"""How a machine of the cluster is started: Ray's parameters, and its environment.

All that Ray has to be told is decided here, and nothing of it is configured elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from reverie.cluster.tls import TlsFiles
from reverie.cluster.token import TOKEN_VARIABLE
from reverie.settings import CLUSTER_PORT

PORTS_VARIABLE = "REVERIE_CLUSTER_PORTS"
"""``FIRST-LAST``: where engines of this machine listen."""
TLS_VARIABLES = ("REVERIE_CLUSTER_TLS_CERT", "REVERIE_CLUSTER_TLS_KEY", "REVERIE_CLUSTER_TLS_CA")
_RAY_TLS_VARIABLES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
ENGINE_RESOURCE = "reverie"
"""Ray's name for the places that a machine has for engines."""

_OBJECT_STORE = 80_000_000
"""Bytes of shared memory: nothing of a request goes there, and Ray wants 75 MB at least."""
RECONNECT_SECONDS = 600
"""How long a process goes on without the head. Then Ray ends it."""
_TUNED = {
    # A machine that is gone is known to be after 3 s.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_SECONDS),
    # Engines reserve their memory when they are placed. Ray would end them by what others use.
    "RAY_memory_monitor_refresh_ms": "0",
    # To drain is the manager's business.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_ROTATION_MAX_BYTES": "10000000",
    "RAY_ROTATION_BACKUP_COUNT": "2",
    "RAY_USAGE_STATS_ENABLED": "0",
}

SERVICE_PORTS = (
    "node_manager_port",
    "object_manager_port",
    "runtime_env_agent_port",
    "dashboard_agent_listen_port",
    "metrics_agent_port",
    "metrics_export_port",
)
"""Ray's own services on each machine, which take the first ports of its range in this order."""
_LEAST_WORKERS = 8
"""Ports for processes besides engines: the manager, gateways' children, commands."""


class Ports(Struct, frozen=True):
    """A range of TCP ports, with both ends."""

    first: int
    last: int

    @classmethod
    def parse(cls, written: str) -> Ports:
        """
        Raises:
            ValueError: it isn't ``FIRST-LAST``.
        """
        first, _, last = written.partition("-")
        if not (first.isdecimal() and last.isdecimal() and len(first) < 6 and len(last) < 6):
            raise ValueError("write FIRST-LAST, as in 20000-20099")
        found = cls(int(first), int(last))
        if not 1024 <= found.first <= found.last <= 65535:
            raise ValueError("ports are between 1024 and 65535, the first one first")
        return found

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first + 1

    def overlaps(self, other: Ports) -> bool:
        return self.first <= other.last and other.first <= self.last


RAY_PORTS = Ports(CLUSTER_PORT + 1, 6499)
ENGINE_PORTS = Ports(20000, 20099)


class NodeOptions(Struct, frozen=True):
    """What a machine is started with. It goes to the process that starts Ray, as JSON."""

    host: str
    """This machine's address, which all others reach."""
    head: str
    """``HOST:PORT`` of the head."""
    is_head: bool
    folder: str
    """Ray's sockets and logs."""
    engines: int
    """Engines that may run here at once."""
    gpus: int
    memory: int
    """Bytes that engines may take here."""
    ports: Ports = RAY_PORTS
    """Ray's, but for the head's."""
    engine_ports: Ports = ENGINE_PORTS
    storage: str | None = None
    """Where the head keeps what it must know after a restart; None: nowhere."""
    tls: TlsFiles | None = None

    @property
    def head_port(self) -> int:
        return int(self.head.rpartition(":")[2])

    def problems(self) -> list[str]:
        """What can't work, as sentences that name the option."""
        found = []
        room = len(self.ports) - len(SERVICE_PORTS) - _LEAST_WORKERS
        if room < self.engines:
            found.append(
                f"--ports: {self.ports} are too few for {self.engines} engines: "
                f"{self.engines + len(SERVICE_PORTS) + _LEAST_WORKERS} ports are needed"
            )
        if len(self.engine_ports) < self.engines:
            found.append(
                f"--engine-ports: {self.engine_ports} are too few for {self.engines} engines: "
                "each needs one"
            )
        if self.ports.overlaps(self.engine_ports):
            found.append(f"--engine-ports: {self.engine_ports} overlap --ports {self.ports}")
        own = Ports(self.head_port, self.head_port)
        if self.is_head and (own.overlaps(self.ports) or own.overlaps(self.engine_ports)):
            found.append(f"--port: {self.head_port} lies in --ports or --engine-ports")
        return found

    @property
    def service_ports(self) -> dict[str, int]:
        """The ports at which something must listen, by Ray's names."""
        services = {name: self.ports.first + n for n, name in enumerate(SERVICE_PORTS)}
        return {**services, **({"gcs_server_port": self.head_port} if self.is_head else {})}

    def parameters(self) -> dict[str, Any]:
        """Ray's parameters for this machine."""
        return {
            **self.service_ports,
            **({} if self.is_head else {"gcs_address": self.head}),
            "min_worker_port": self.ports.first + len(SERVICE_PORTS),
            "max_worker_port": self.ports.last,
            "node_ip_address": self.host,
            "node_name": self.host,
            "num_cpus": 0,  # engines are placed by what they need of the machine, not by Ray's CPUs
            "num_gpus": self.gpus,
            "memory": self.memory,
            "object_store_memory": _OBJECT_STORE,
            "resources": {ENGINE_RESOURCE: self.engines} if self.engines else {},
            "temp_dir": self.folder,
            "include_dashboard": False,
            "dashboard_host": "127.0.0.1",
            "include_log_monitor": False,  # nobody reads logs over the network
            "no_monitor": True,  # it would scale machines
        }

    def environment(self, token: str, inherited: Mapping[str, str]) -> dict[str, str]:
        """The environment of Ray's processes, and so of the engines' actors."""
        kept = {
            name: value
            for name, value in inherited.items()
            if name != TOKEN_VARIABLE and not name.startswith("RAY_")
        }
        return {
            **kept,
            **_TUNED,
            **ray_access(token, self.tls),
            **self._storage_variables(),
            PORTS_VARIABLE: str(self.engine_ports),
            **dict(zip(TLS_VARIABLES, self.tls or (), strict=False)),
        }

    def _storage_variables(self) -> dict[str, str]:
        if self.storage is None:
            return {}
        return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": self.storage}


def ray_access(token: str, tls: TlsFiles | None) -> dict[str, str]:
    """The variables with which a process is let into the cluster."""
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    if tls is None:
        return access
    files = dict(zip(_RAY_TLS_VARIABLES, tls, strict=True))
    return {**access, "RAY_USE_TLS": "1", **files}
