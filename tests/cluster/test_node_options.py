from __future__ import annotations

from typing import Any

import pytest

from reverie.cluster.node_options import NodeOptions, Ports
from reverie.cluster.token import TOKEN_VARIABLE

TOKEN = "0123456789abcdef0123"


def options(**changes: Any) -> NodeOptions:
    given: dict[str, Any] = {
        "host": "10.0.0.2",
        "head": "10.0.0.1:6379",
        "is_head": False,
        "folder": "/tmp/ray",
        "engines": 3,
        "gpus": 0,
        "memory": 1 << 30,
    }
    return NodeOptions(**(given | changes))


def head(**changes: Any) -> NodeOptions:
    return options(host="10.0.0.1", is_head=True, engines=0, **changes)


def test_all_ports_of_a_machine_are_fixed_and_within_its_range() -> None:
    given = head(ports=Ports(7000, 7099), head="10.0.0.1:7777").parameters()
    ports = {name: value for name, value in given.items() if name.endswith("_port")}
    assert ports.pop("gcs_server_port") == 7777
    assert (ports.pop("min_worker_port"), ports.pop("max_worker_port")) == (7006, 7099)
    assert sorted(ports.values()) == [7000, 7001, 7002, 7003, 7004, 7005]


def test_a_machine_joins_the_head_with_room_for_its_engines() -> None:
    given = options().parameters()
    assert given["gcs_address"] == "10.0.0.1:6379"
    assert "gcs_server_port" not in given
    assert given["resources"] == {"reverie": 3}
    assert (given["num_cpus"], given["num_gpus"], given["memory"]) == (0, 0, 1 << 30)


def test_a_head_takes_no_engine_unless_it_is_told_to() -> None:
    assert head().parameters()["resources"] == {}


def test_ray_takes_little_shared_memory_and_shows_no_dashboard() -> None:
    given = head().parameters()
    assert 75_000_000 <= given["object_store_memory"] <= 100_000_000
    assert given["include_dashboard"] is False


def test_a_dead_machine_is_noticed_in_seconds_and_a_dead_head_is_waited_for() -> None:
    environ = options().environment(TOKEN, {})
    period, deadline, failures = (
        int(environ[f"RAY_health_check_{name}"])
        for name in ("period_ms", "timeout_ms", "failure_threshold")
    )
    assert (period + deadline) * failures <= 5000
    assert environ["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"


def test_ray_tells_nobody_of_its_use_and_writes_bounded_logs() -> None:
    environ = options().environment(TOKEN, {})
    assert environ["RAY_USAGE_STATS_ENABLED"] == "0"
    files = int(environ["RAY_ROTATION_BACKUP_COUNT"]) + 1
    assert files * int(environ["RAY_ROTATION_MAX_BYTES"]) <= 30_000_000


def test_ray_gets_the_token_and_nothing_that_is_set_here_for_another_cluster() -> None:
    here = {"HOME": "/root", TOKEN_VARIABLE: TOKEN, "RAY_ADDRESS": "x", "RAY_AUTH_MODE": "disabled"}
    environ = options().environment(TOKEN, here)
    assert environ["RAY_AUTH_TOKEN"] == TOKEN
    assert environ["RAY_AUTH_MODE"] == "token"
    assert environ["HOME"] == "/root"
    assert not {TOKEN_VARIABLE, "RAY_ADDRESS"} & environ.keys()


def test_a_head_keeps_what_it_knows_in_its_storage() -> None:
    environ = head(storage="/var/head").environment(TOKEN, {})
    assert (environ["RAY_gcs_storage"], environ["RAY_gcs_storage_path"]) == ("rocksdb", "/var/head")
    assert "RAY_gcs_storage" not in head().environment(TOKEN, {})


def test_tls_is_for_ray_and_for_engines() -> None:
    environ = options(tls=("c.pem", "k.pem", "a.pem")).environment(TOKEN, {})
    assert environ["RAY_USE_TLS"] == "1"
    for one in ("RAY_TLS_SERVER", "REVERIE_CLUSTER_TLS"):
        assert (environ[f"{one}_CERT"], environ[f"{one}_KEY"]) == ("c.pem", "k.pem")
    assert environ["RAY_TLS_CA_CERT"] == environ["REVERIE_CLUSTER_TLS_CA"] == "a.pem"
    assert "RAY_USE_TLS" not in options().environment(TOKEN, {})


def test_engines_are_told_their_ports() -> None:
    environ = options(engine_ports=Ports(9000, 9010)).environment(TOKEN, {})
    assert environ["REVERIE_CLUSTER_PORTS"] == "9000-9010"


@pytest.mark.parametrize("written", ["", "1", "1-2", "2000-1999", "2000-65536", "a-b", "2000--1"])
def test_what_is_no_range_of_ports_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"FIRST-LAST|between 1024"):
        Ports.parse(written)


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"ports": Ports(7000, 7010), "engines": 1}, "--ports"),
        ({"engine_ports": Ports(20000, 20001)}, "--engine-ports"),
        ({"engine_ports": Ports(6490, 6600)}, "--engine-ports"),
        ({"head": "10.0.0.1:6400", "is_head": True}, "--port"),
    ],
)
def test_ports_that_can_not_do_are_refused_by_the_options_name(
    changes: dict[str, Any], option: str
) -> None:
    [problem] = options(**changes).problems()
    assert problem.startswith(f"{option}: ")


def test_the_defaults_go_together() -> None:
    assert options().problems() == head().problems() == []
