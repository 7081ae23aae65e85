"""Which machines a cluster has, by what Ray tells of all that it ever had."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.core.generated.gcs_pb2 import GcsNodeInfo

from reverie.cluster.actors import machines_of

LOST = NodeDeathInfo.UNEXPECTED_TERMINATION
ENDED = NodeDeathInfo.EXPECTED_TERMINATION


def node(number: int, address: str, died: int = 0, reason: int = 0) -> GcsNodeInfo:
    one = GcsNodeInfo(node_id=bytes([number]), node_manager_address=address, end_time_ms=died)
    one.state = GcsNodeInfo.DEAD if died else GcsNodeInfo.ALIVE
    one.death_info.reason = reason
    one.resources_total.update({"reverie": 2.0, "memory": 8e9})
    return one


def seen(*nodes: GcsNodeInfo) -> dict[str, bool]:
    return {one.address: one.alive for one in machines_of(nodes, {})}


def test_one_that_was_told_to_end_is_no_machine_any_more() -> None:
    assert seen(node(1, "10.0.0.1"), node(2, "10.0.0.2", 9, ENDED)) == {"10.0.0.1": True}


def test_one_that_died_is_lost_until_it_is_back() -> None:
    dead = node(1, "10.0.0.1", 9, LOST)
    assert seen(dead) == {"10.0.0.1": False}
    assert seen(node(2, "10.0.0.1"), dead) == {"10.0.0.1": True}


@pytest.mark.parametrize("turn", [1, -1])
def test_what_happened_last_counts(turn: int) -> None:
    left = [node(1, "10.0.0.1", 8, LOST), node(2, "10.0.0.1", 9, ENDED)]
    died = [node(3, "10.0.0.2", 8, ENDED), node(4, "10.0.0.2", 9, LOST)]
    assert seen(*(left + died)[::turn]) == {"10.0.0.2": False}


def test_of_many_that_died_the_last_are_told() -> None:
    dead = [node(n, f"10.0.0.{n}", 1000 - n, LOST) for n in range(1, 40)]
    assert set(seen(*dead)) == {f"10.0.0.{n}" for n in range(1, 21)}


def test_what_is_free_is_told_of_the_machine_that_lives() -> None:
    nodes = (node(1, "10.0.0.1"), node(2, "10.0.0.1", 9, LOST))
    [machine] = machines_of(nodes, {b"\1".hex(): {"reverie": 1.0, "memory": 3e9}})
    assert (machine.slots, machine.free_slots, machine.free_memory) == (2, 1, 3 * 10**9)
