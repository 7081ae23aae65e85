"""One engine of the cluster on this machine: its model's file fetched, llama.cpp kept running."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from reverie.cluster.messages import EngineInfo, EngineSpec


class EngineTls(NamedTuple):
    """This machine's certificate, its key, and the authority that signed it."""

    cert: Path
    key: Path
    ca: Path


class EngineHost:
    """One engine, from its file's arrival to its end. Nothing here waits for the main thread.

    Args:
        name: ``MODEL/NUMBER``.
        uid: no other engine had it.
        host: this machine's address, as gateways reach it.
        ports: those that engines may listen on; None: any.
        tls: None: it speaks plain HTTP.
    """

    def __init__(
        self,
        name: str,
        uid: str,
        spec: EngineSpec,
        *,
        host: str,
        ports: range | None = None,
        tls: EngineTls | None = None,
    ) -> None:
        self.name = name
        self.uid = uid

    async def start(self) -> None:
        """Begin to fetch and load; doesn't wait for it."""

    async def watch(self, seen: int) -> EngineInfo:
        """What it tells of itself, once its ``revision`` is above ``seen``; after half a minute in
        any case."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End it, and return once it is gone. Idempotent."""
