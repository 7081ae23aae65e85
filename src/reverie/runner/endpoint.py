"""Where an engine answers HTTP: a Unix socket, or a port of an address of this machine.

Rule: the child imports this before the engine, so this imports nothing slow.
"""

from __future__ import annotations

from typing import NamedTuple


class Endpoint(NamedTuple):
    """Where an engine answers, and the file with the key that requests to it carry."""

    host: str
    """An address; if ``port`` is 0, the path of a Unix socket."""
    port: int = 0
    key_file: str = ""
    """Empty: it wants no key."""

    def key(self) -> str:
        """That key; empty: none is wanted."""
        if not self.key_file:
            return ""
        with open(self.key_file, encoding="ascii") as file:
            return file.read().strip()
