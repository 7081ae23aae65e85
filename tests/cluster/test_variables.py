from __future__ import annotations

from reverie.cluster.node_options import NodeOptions, Ports
from reverie.cluster.tls import TlsFiles
from reverie.cluster.variables import (
    child_variables,
    driver_environment,
    engine_ports,
    tls_files,
    token_of,
)

FILES = TlsFiles("cert.pem", "key.pem", "ca.pem")


def machine(**options: object) -> dict[str, str]:
    fixed = {"host": "10.0.0.2", "head": "10.0.0.1:6379", "is_head": False, "folder": "/there"}
    node = NodeOptions(**fixed, engines=2, gpus=0, memory=2**30, **options)  # type: ignore[arg-type]
    return node.environment("secret", {})


def test_an_engine_learns_from_its_machine_what_the_machine_was_told() -> None:
    environ = machine(engine_ports=Ports(21000, 21003), tls=tuple(FILES))
    assert engine_ports(environ) == range(21000, 21004)
    assert tls_files(environ) == FILES


def test_an_engine_takes_any_port_and_speaks_plainly_where_nothing_was_told() -> None:
    assert engine_ports({}) is None
    assert tls_files(machine()) is None


def test_a_child_gets_its_token_and_files_by_the_environment() -> None:
    environ = child_variables("secret", FILES)
    assert token_of(environ) == "secret"
    assert tls_files(environ) == FILES
    assert tls_files(child_variables("secret", None)) is None


def test_who_connects_shows_the_token_that_machines_ask_for() -> None:
    ours, theirs = driver_environment("secret", FILES), machine(tls=tuple(FILES))
    same = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USE_TLS", "RAY_TLS_CA_CERT")
    assert [ours[name] for name in same] == [theirs[name] for name in same]
    assert ours["RAY_AUTH_TOKEN"] == "secret"


def test_who_connects_misses_the_head_as_long_as_machines_do() -> None:
    name = "RAY_gcs_rpc_server_reconnect_timeout_s"
    assert driver_environment("secret", None)[name] == machine()[name]
