"""Which machine an engine goes to: plain functions of what is free, and of what runs where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from reverie.cluster.messages import EngineSpec, Machine


class Placed(NamedTuple):
    """An engine that takes room on a machine."""

    machine: str
    """An address."""
    model: str
    gpus: float
    memory: int


@dataclass(slots=True)
class Room:
    """What a machine has left, and what it holds."""

    machine: Machine
    slots: int
    gpus: float
    memory: int
    engines: int = 0
    by_model: Counter[str] = field(default_factory=Counter)

    def take(self, spec: EngineSpec, sign: int = 1) -> None:
        """Reserve what one engine needs; with -1, give it back."""
        self.slots -= sign
        self.gpus -= sign * spec.gpus
        self.memory -= sign * memory_of(spec.gpus, spec.memory)
        self.engines += sign
        self.by_model[spec.model] += sign


def memory_of(gpus: float, memory: int) -> int:
    """What an engine takes of its machine's memory. With GPUs, it keeps its model in theirs."""
    return 0 if gpus else memory


def rooms(
    machines: Iterable[Machine],
    engines: Iterable[Placed],
    started: Iterable[Placed] = (),
    ended: Iterable[Placed] = (),
) -> dict[str, Room]:
    """The room on each machine that is alive, by address.

    A machine tells what is free of it, but late: what was started or ended since it was asked is
    put right. More than its total less our own engines there is never free, so that an engine
    that was being started just then isn't forgotten.

    Args:
        engines: all engines of ours, in whatever state.
        started: those of them that were started since the machines told.
        ended: engines that have ended since.
    """
    found = {
        one.address: Room(one, one.free_slots, one.free_gpus, one.free_memory)
        for one in machines
        if one.alive
    }
    left = {
        address: Room(room.machine, room.machine.slots, room.machine.gpus, room.machine.memory)
        for address, room in found.items()
    }
    for of, sign, placed in (
        *((found, 1, one) for one in started),
        *((found, -1, one) for one in ended),
        *((left, 1, one) for one in engines),
    ):
        if room := of.get(placed.machine):
            room.take(EngineSpec(placed.model, {}, placed.gpus, placed.memory), sign)
    for address, room in found.items():
        ours = left[address]
        room.slots = min(room.slots, ours.slots)
        room.gpus = min(room.gpus, ours.gpus)
        room.memory = min(room.memory, ours.memory)
        room.engines, room.by_model = ours.engines, ours.by_model
    return found


def place(
    spec: EngineSpec,
    free: Iterable[Room],
    draining: Collection[str] = (),
    avoid: Collection[str] = (),
) -> Room | str:
    """Where an engine goes, or why it can't go anywhere, as a sentence for the operator.

    Engines of one model are spread over machines, so that one machine takes few of them along.

    Args:
        draining: addresses of machines that get no engine.
        avoid: addresses of machines that get one only if no other can take it.
    """
    alive = [room for room in free if room.machine.slots]
    if not alive:
        return "There is no machine for engines: start one with `reverie cluster join`."
    open_ = [room for room in alive if room.machine.address not in draining]
    if not open_:
        return "All machines drain."
    drained = _that_drain(len(alive) - len(open_))
    with_slot = [room for room in open_ if room.slots >= 1]
    if not with_slot:
        total = sum(room.machine.slots for room in open_)
        return f"All engine slots are taken: the machines have {total}.{drained}"
    with_gpus = [room for room in with_slot if room.gpus >= spec.gpus - 1e-6]
    if not with_gpus:
        most = max(with_slot, key=lambda room: room.gpus)
        gpus = "1 free GPU" if spec.gpus == 1 else f"{spec.gpus:g} free GPUs"
        has = f"{most.gpus:g}" if most.gpus > 1e-6 else "none"
        return f"No machine has {gpus}; {most.machine.address} has {has}.{drained}"
    memory = memory_of(spec.gpus, spec.memory)
    fitting = [room for room in with_gpus if not memory or room.memory >= memory]
    if not fitting:
        most = max(with_gpus, key=lambda room: room.memory)
        return (
            f"No machine has {_gib(memory)} of free memory; "
            f"{most.machine.address} has {_gib(max(0, most.memory))}.{drained}"
        )
    return min(fitting, key=lambda room: _order(room, spec.model, avoid))


def _order(room: Room, model: str, avoid: Collection[str]) -> tuple[bool, int, int, int, str]:
    address = room.machine.address
    return (address in avoid, room.by_model[model], room.engines, -room.memory, address)


def _that_drain(number: int) -> str:
    return "" if not number else " 1 machine drains." if number == 1 else f" {number} drain."


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
