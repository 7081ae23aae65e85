"""Ray's side of a cluster: its actors, and the launcher that starts engines as actors.

There is one actor an engine, and one for the manager. Each is detached, so that it outlives whoever
made it, and has a name, by which others find it. Messages cross as bytes of ``messages.encode``.

Rule 1: each actor ends itself when its raylet is gone, which doesn't always end it.

Rule 2: a call that asks the head blocks as long as the head is away. It is made in a thread.

Rule 3: Ray never restarts an engine, since its address and key change: the manager decides that.

Rule 4: an actor that the manager doesn't count any more is ended. It would keep its machine's room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
import ray
from ray._private.state import available_resources_per_node
from ray._private.worker import global_worker
from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import reverie
from reverie import background, log
from reverie.cluster.connection import NAMESPACE
from reverie.cluster.engine import EngineHost
from reverie.cluster.launcher import Adopted, EngineDied, LaunchFailed
from reverie.cluster.manager import Manager, UnknownMachine
from reverie.cluster.messages import (
    PROTOCOL,
    Deploy,
    EngineInfo,
    EngineSpec,
    Machine,
    Report,
    decode,
    encode,
)
from reverie.cluster.node_options import ENGINE_RESOURCE
from reverie.cluster.orphans import die_with
from reverie.cluster.placement import memory_of
from reverie.cluster.variables import engine_ports, tls_files
from reverie.log import fields
from reverie.threads import run_in_daemon_thread

logger = logging.getLogger("reverie.cluster")

T = TypeVar("T")

_ENGINE_PREFIX = "engine:"

_HEAD_DEADLINE = 10.0
"""Seconds for what the head is asked."""
_ANSWER_DEADLINE = 5.0
_STOP_DEADLINE = 30.0
_UNCERTAIN = 5.0
"""Seconds for which an actor that can't be reached may come back, before it counts as dead."""
_DEAD_MACHINES = 20
"""Dead machines that are told of."""
_VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


class About(msgspec.Struct, frozen=True):
    """What an engine's actor says to a manager that didn't start it."""

    name: str
    uid: str
    spec: EngineSpec
    machine: str


class EngineActor:
    """One engine's process on its machine."""

    def __init__(self, name: str, uid: str, spec: bytes) -> None:
        _begin()
        if os.environ.get("OMP_NUM_THREADS") == "1":  # Ray's, for an actor without CPUs of its own
            del os.environ["OMP_NUM_THREADS"]
        machine = ray.util.get_node_ip_address()
        self._about = About(name, uid, decode(spec, EngineSpec), machine)
        if not self._about.spec.gpus:  # Ray lets it see all, and others have been promised them
            os.environ.update(dict.fromkeys(_VISIBLE_GPUS, ""))
        self._host = EngineHost(
            name,
            uid,
            self._about.spec,
            host=machine,
            ports=engine_ports(os.environ),
            tls=tls_files(os.environ),
        )
        self._starting = background.once("cluster engine's start", self._host.start)

    async def about(self) -> bytes:
        return encode(self._about)

    async def watch(self, seen: int) -> bytes:
        return encode(await self._host.watch(seen))

    async def stop(self) -> None:
        """End its process, too: the head may be away, and is needed for that from outside."""
        await self._host.stop()
        ray.actor.exit_actor()


class ManagerActor:
    """The one manager of a cluster, on its head. Ray starts it again whenever it has ended."""

    def __init__(self) -> None:
        _begin()
        self._manager = Manager(RayLauncher())
        self._starting = background.once("cluster manager's start", self._manager.start)

    async def hello(self) -> tuple[int, str]:
        """Its ``PROTOCOL``, and its version of Reverie. No later version may change this."""
        return PROTOCOL, reverie.__version__

    async def deploy(self, deploy: bytes) -> None:
        await self._starting
        asked = decode(deploy, Deploy)
        self._manager.deploy(asked.gateway, asked.models)

    async def report(self, report: bytes) -> bytes:
        await self._starting
        return encode(self._manager.report(decode(report, Report)))

    async def view(self, gateway: str, incarnation: str, version: int, timeout: float) -> bytes:
        await self._starting
        return encode(await self._manager.view(gateway, incarnation, version, timeout))

    async def overview(self) -> bytes:
        await self._starting
        return encode(self._manager.overview())

    async def drain(self, machine: str, draining: bool) -> str:
        """Gives what is wrong with that, as a sentence; empty if it is done."""
        await self._starting
        try:
            await self._manager.drain(machine, draining)
        except UnknownMachine as error:
            return str(error)
        return ""


def _begin() -> None:
    """What each actor's process does first. Its log is a file of Ray's."""
    die_with(os.getppid())
    log.configure("info", "text")


_Engine: Any = ray.remote(EngineActor)
_Manager: Any = ray.remote(ManagerActor)


def manager_actor() -> Any:
    """The cluster's manager, which is made if there is none. Asks the head."""
    return _Manager.options(
        name="manager",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,  # who asks is told that it is away, and asks again
        max_concurrency=10_000,  # gateways' long polls
        num_cpus=0,
        resources={"node:__internal_head__": 0.001},
    ).remote()


class RayHandle:
    """An engine's actor, as the manager holds it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def watch(self, seen: int) -> EngineInfo:
        """See ``Handle``.

        An actor that can't be reached may be alive: were another one started at once, both would
        hold the model's memory.
        """
        lost: float | None = None
        while True:
            try:
                return decode(await self._actor.watch.remote(seen), EngineInfo)
            except ActorUnavailableError as error:
                now = time.monotonic()
                lost = now if lost is None else lost
                if now - lost > _UNCERTAIN:
                    why = cause(error)
                    break
                await asyncio.sleep(0.1)
            except RayActorError as error:  # nothing of it is left
                raise EngineDied(cause(error)) from None
            except RayError as error:
                why = cause(error)
                break
            except msgspec.DecodeError:
                why = "It runs another version of Reverie than the manager."
                break
        await _end(self._actor)
        raise EngineDied(why)

    async def stop(self) -> None:
        with contextlib.suppress(RayError, TimeoutError):
            await answer(self._actor.stop.remote(), _STOP_DEADLINE)
        await _end(self._actor)


class RayLauncher:
    """Runs engines as actors. See ``Launcher``."""

    def __init__(self) -> None:
        self._machines: Sequence[Machine] = ()

    async def machines(self) -> Sequence[Machine]:
        """As they were last, while the head doesn't answer."""
        with contextlib.suppress(RayError, TimeoutError):
            self._machines = await of_head(_machines)
        return self._machines

    async def start(self, name: str, uid: str, spec: EngineSpec, machine: Machine) -> RayHandle:
        def create() -> Any:
            memory = memory_of(spec.gpus, spec.memory)
            options: dict[str, Any] = {"memory": memory} if memory else {}
            return _Engine.options(
                name=f"{_ENGINE_PREFIX}{name}:{uid}",  # Ray keeps the name of one that has died
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=0,
                max_concurrency=16,
                num_cpus=0,
                num_gpus=spec.gpus,
                resources={ENGINE_RESOURCE: 1},
                scheduling_strategy=NodeAffinitySchedulingStrategy(machine.id, soft=False),
                **options,
            ).remote(name, uid, encode(spec))

        try:
            actor = await _made(create)
        except (RayError, ValueError, TimeoutError) as error:
            raise LaunchFailed(f"Ray can't start an engine: {cause(error)}") from None
        try:
            await actor.about.remote()
        except BaseException as error:  # the manager gives it up after a minute
            await _end(actor)
            if not isinstance(error, RayError):
                raise
            raise LaunchFailed(
                f"An engine could not be started on {machine.address}: {cause(error)}"
            ) from None
        return RayHandle(actor)

    async def adopt(self) -> Sequence[Adopted]:
        found = await asyncio.gather(*map(_adopted, await of_head(_engine_actors)))
        return [one for one in found if one is not None]

    async def remember(self, key: str, value: bytes) -> None:
        try:
            await of_head(lambda: _internal_kv_put(key, value, namespace=NAMESPACE))
        except (RayError, TimeoutError) as error:
            logger.warning("not remembered", extra=fields(key=key, reason=cause(error)))

    async def recall(self, key: str) -> bytes | None:
        return await of_head(lambda: _internal_kv_get(key, namespace=NAMESPACE))


async def _made(make: Callable[[], Any]) -> Any:
    """An actor that the head is asked to make. One that comes too late is ended.

    Raises:
        TimeoutError
    """
    making = asyncio.ensure_future(run_in_daemon_thread(make))
    try:
        async with asyncio.timeout(_HEAD_DEADLINE):
            return await asyncio.shield(making)
    except BaseException:
        making.add_done_callback(_end_what_came)
        raise


def _end_what_came(making: asyncio.Future[Any]) -> None:
    if not making.cancelled() and making.exception() is None:
        background.once("late engine's end", lambda: _end(making.result()))


async def _end(actor: Any) -> None:
    """End an actor's process, whatever it does."""
    with contextlib.suppress(RayError, TimeoutError):
        await of_head(lambda: ray.kill(actor))


def _engine_actors() -> list[Any]:
    found = []
    for one in list_named_actors(all_namespaces=True):
        if one["namespace"] == NAMESPACE and one["name"].startswith(_ENGINE_PREFIX):
            with contextlib.suppress(ValueError):  # it has just ended
                found.append(ray.get_actor(one["name"], NAMESPACE))
    return found


async def _adopted(actor: Any) -> Adopted | None:
    async def told() -> bytes:
        while True:
            try:
                return cast(bytes, await actor.about.remote())
            except ActorUnavailableError:  # it may be alive: the head has just come back
                await asyncio.sleep(0.1)

    try:
        about = decode(await answer(told(), _ANSWER_DEADLINE), About)
    except (RayError, TimeoutError, msgspec.DecodeError):
        await _end(actor)
        return None
    return Adopted(about.name, about.uid, about.spec, about.machine, RayHandle(actor))


def _machines() -> list[Machine]:
    free = available_resources_per_node()
    nodes = global_worker.gcs_client.get_all_node_info(timeout=_HEAD_DEADLINE)
    return machines_of(list(nodes.values()), free)


def machines_of(nodes: Sequence[Any], free: Mapping[str, Mapping[str, float]]) -> list[Machine]:
    """What Ray knows of machines, one for each address: the one that lives, else that which died
    last. Those that were told to end are no machines of the cluster any more.

    Args:
        free: by the node's id.
    """
    machines: dict[str, Machine] = {}
    for node in sorted(nodes, key=lambda one: (one.state == GcsNodeInfo.ALIVE, one.end_time_ms)):
        address, alive = node.node_manager_address, node.state == GcsNodeInfo.ALIVE
        machines.pop(address, None)
        if not alive and node.death_info.reason == NodeDeathInfo.EXPECTED_TERMINATION:
            continue
        whole = node.resources_total if alive else {}
        left = free.get(node.node_id.hex(), {})
        machines[address] = Machine(
            id=node.node_id.hex(),
            address=address,
            alive=alive,
            slots=int(whole.get(ENGINE_RESOURCE, 0)),
            free_slots=int(left.get(ENGINE_RESOURCE, 0)),
            gpus=whole.get("GPU", 0.0),
            free_gpus=left.get("GPU", 0.0),
            memory=int(whole.get("memory", 0)),
            free_memory=int(left.get("memory", 0)),
        )
    living = [one for one in machines.values() if one.alive]
    dead = [one for one in machines.values() if not one.alive]
    return [*living, *dead[-_DEAD_MACHINES:]]


async def of_head(work: Callable[[], T]) -> T:
    """What the head is asked, which blocks.

    Raises:
        TimeoutError
    """
    async with asyncio.timeout(_HEAD_DEADLINE):
        return await run_in_daemon_thread(work)


async def answer(call: Awaitable[T], deadline: float) -> T:
    """What an actor answers.

    Raises:
        TimeoutError
    """
    async with asyncio.timeout(deadline):
        return await call


def cause(error: BaseException) -> str:
    """One line of Ray's many."""
    if isinstance(error, TimeoutError):
        return "the head doesn't answer"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300].rstrip(".") + "."
