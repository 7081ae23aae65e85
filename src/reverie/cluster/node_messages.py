"""What the process that runs Ray tells the command that started it."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class Started(Struct, frozen=True, tag="started"):
    """Ray runs, and this machine is part of the cluster."""

    logs: str
    """Ray's log folder."""


class Failed(Struct, frozen=True, tag="failed"):
    """It can't be started."""

    why: str
    """A sentence for the operator."""


class HeadLost(Struct, frozen=True, tag="head_lost"):
    """The head doesn't answer any more."""


class HeadBack(Struct, frozen=True, tag="head_back"):
    """It does again."""


class PartDied(Struct, frozen=True, tag="part_died"):
    """A process of Ray has ended, and with it all on this machine."""

    parts: str


Event: TypeAlias = Started | Failed | HeadLost | HeadBack | PartDied
