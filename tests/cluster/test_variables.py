from __future__ import annotations

from reverie.cluster.variables import (
    TlsFiles,
    engine_ports,
    head_environment,
    machine_environment,
    ray_environment,
    tls_files,
)

FILES = TlsFiles("cert.pem", "key.pem", "ca.pem")


def test_an_engine_learns_from_its_machine_what_the_machine_was_told() -> None:
    environ = machine_environment("secret", FILES, range(20000, 20100))
    assert engine_ports(environ) == range(20000, 20100)
    assert tls_files(environ) == FILES


def test_an_engine_takes_any_port_and_speaks_plainly_where_nothing_else_was_told() -> None:
    environ = machine_environment("secret", None)
    assert engine_ports(environ) is None
    assert tls_files(environ) is None


def test_ray_asks_for_a_token_and_for_tls() -> None:
    environ = ray_environment("secret", FILES)
    assert environ["RAY_AUTH_MODE"] == "token"
    assert environ["RAY_AUTH_TOKEN"] == "secret"
    assert environ["RAY_USE_TLS"] == "1"
    assert "RAY_USE_TLS" not in ray_environment("secret", None)


def test_a_head_keeps_what_it_knows_where_it_has_a_folder() -> None:
    assert head_environment("/there")["RAY_gcs_storage_path"] == "/there"
    assert "RAY_gcs_storage" not in head_environment(None)
