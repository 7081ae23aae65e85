"""What a gateway or a command is told where the manager doesn't answer as it should."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

import pytest

from reverie.cluster.connection import ManagerAway
from reverie.cluster.messages import PROTOCOL
from reverie.errors import ClusterError

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

from ray.exceptions import ActorDiedError, ActorUnavailableError

from reverie.cluster import remote_manager
from reverie.cluster.remote_manager import RemoteManager


class Method:
    def __init__(self, answer: Callable[..., Awaitable[Any]]) -> None:
        self.remote = answer


class Actor:
    """Answers each call with this, or raises it."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Method:
        async def answer(*_: object) -> object:
            if isinstance(self._answer, Exception):
                raise self._answer
            return self._answer

        return Method(answer)


async def test_a_manager_of_another_protocol_is_refused_with_both_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_manager, "manager_actor", lambda: Actor((PROTOCOL + 1, "9.9.9")))
    with pytest.raises(ClusterError, match=r"runs Reverie 9\.9\.9, .*install the same version"):
        await RemoteManager.find()


async def test_a_manager_of_this_protocol_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_manager, "manager_actor", lambda: Actor((PROTOCOL, "9.9.9")))
    assert (await RemoteManager.find()).reverie == "9.9.9"


async def test_a_manager_that_is_being_started_again_may_answer_soon() -> None:
    with pytest.raises(ManagerAway) as caught:
        await RemoteManager(Actor(ActorUnavailableError("gone", None))).overview()
    assert not caught.value.ended


async def test_a_manager_that_has_ended_will_not_answer() -> None:
    with pytest.raises(ManagerAway) as caught:
        await RemoteManager(Actor(ActorDiedError())).overview()
    assert caught.value.ended


async def test_to_drain_a_machine_that_is_unknown_says_so() -> None:
    with pytest.raises(ClusterError, match="no such machine"):
        await RemoteManager(Actor("There is no such machine.")).drain("10.0.0.9", True)
