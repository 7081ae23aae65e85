"""The cluster's manager, as gateways and commands ask it once they are connected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorUnavailableError, RayActorError, RayError

import reverie
from reverie.cluster.actors import answer, cause, manager_actor, of_head
from reverie.cluster.connection import ManagerAway
from reverie.cluster.messages import PROTOCOL, Deploy, Loads, Report, View, decode, encode
from reverie.errors import ClusterError

_FIRST_ANSWER = 60.0
"""Seconds until one that is made now answers, on a machine that is busy."""
_ANSWER = 10.0


class RemoteManager:
    """Its methods raise ``ManagerAway`` where another try may do, and ``ClusterError`` where none
    will."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.reverie = ""
        """The version that it runs."""

    @classmethod
    async def find(cls) -> RemoteManager:
        """The cluster's manager, which is made if there is none.

        Raises:
            ManagerAway
            ClusterError: it speaks another ``PROTOCOL``.
        """
        try:
            manager = cls(await of_head(manager_actor))
        except (RayError, ValueError, TimeoutError) as error:
            raise ManagerAway(f"Ray can't start the cluster's manager: {cause(error)}") from None
        hello = await manager._ask(lambda actor: actor.hello.remote(), _FIRST_ANSWER)
        protocol, manager.reverie = hello
        if protocol != PROTOCOL:
            raise ClusterError(
                f"The cluster's manager runs Reverie {manager.reverie}, which this version "
                f"({reverie.__version__}) doesn't understand: install the same version on all "
                "machines, and restart the head."
            )
        return manager

    async def deploy(self, deploy: Deploy) -> None:
        await self._ask(lambda actor: actor.deploy.remote(encode(deploy)))

    async def report(self, report: Report) -> Loads:
        data = await self._ask(lambda actor: actor.report.remote(encode(report)))
        return decode(data, Loads)

    async def view(self, gateway: str, incarnation: str, version: int, timeout: float) -> View:
        """The next view after this one, or the same one after ``timeout``."""
        data = await self._ask(
            lambda actor: actor.view.remote(gateway, incarnation, version, timeout),
            timeout + _ANSWER,
        )
        return decode(data, View)

    async def overview(self) -> View:
        return decode(await self._ask(lambda actor: actor.overview.remote()), View)

    async def drain(self, machine: str, draining: bool) -> None:
        """
        Raises:
            ClusterError: there is no such machine, too.
        """
        problem = await self._ask(lambda actor: actor.drain.remote(machine, draining))
        if problem:
            raise ClusterError(problem)

    async def _ask(self, call: Callable[[Any], Any], deadline: float = _ANSWER) -> Any:
        try:
            return await answer(call(self._actor), deadline)
        except TimeoutError:
            raise ManagerAway("The cluster's manager doesn't answer.") from None
        except ActorUnavailableError:
            raise ManagerAway("The cluster's manager is being started again.") from None
        except RayActorError as error:
            raise ManagerAway(f"The cluster's manager ended: {cause(error)}", ended=True) from None
        except RayError as error:
            raise ClusterError(f"The cluster's manager failed: {cause(error)}") from error
