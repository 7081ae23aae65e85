from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator

import pytest

from reverie.cluster import node_checks
from reverie.cluster.node_checks import own_address, require_free, require_ray, resolve
from reverie.cluster.node_options import NodeOptions, Ports
from reverie.errors import ConfigurationError


def options(host: str, first: int, *, port: int = 0) -> NodeOptions:
    ports = Ports(first, first + 99)
    head = f"127.0.0.2:{port or 6379}"
    return NodeOptions(host, head, bool(port), "/tmp/r", 1, 0, 1 << 30, ports)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that a program listens on."""
    with socket.create_server(("", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("given", ["127.0.0.1", "::1", "0.0.0.0", "::", "a-name", "10.0.0"])
def test_an_address_that_no_other_machine_reaches_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match="--host") as caught:
        own_address(given)
    assert given in caught.value.problems[0]


def test_a_cluster_can_be_tried_on_one_machine() -> None:
    assert own_address("127.0.0.2") == "127.0.0.2"


def test_without_an_address_the_one_on_the_way_to_the_head_is_taken() -> None:
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.3"):
        own_address(None, "127.0.0.2")  # from 127.0.0.1, which would be of no use


def test_a_machine_without_a_route_is_asked_for_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_checks, "_ANYWHERE", ("255.255.255.255", 9))
    with pytest.raises(ConfigurationError, match="--host: this machine has no route"):
        own_address(None)


def test_a_name_that_no_machine_has_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no machine has this name"):
        resolve("no-such-host.invalid")


@pytest.mark.integration
def test_ports_in_use_are_named_with_the_option_that_moves_them(taken: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_free(options("127.0.0.2", taken))
    [problem] = caught.value.problems
    assert problem.startswith("--ports: ")
    assert str(taken) in problem
    with pytest.raises(ConfigurationError, match=f"--port: .*{taken}"):
        require_free(options("127.0.0.2", 39000, port=taken))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"198\.51\.100\.7 is not an address of this"):
        require_free(options("198.51.100.7", 39000))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r'pip install "reverie\[cluster\]"'):
        require_ray()
