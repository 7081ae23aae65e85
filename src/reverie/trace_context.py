"""W3C Trace Context: which trace a request is part of, as callers tell and engines are told.

Rule: what a caller sends is parsed, and what an engine gets is written anew. Bytes that don't fit
the format to the letter count as none (www.w3.org/TR/trace-context).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"

_MAX_STATE = 512
"""Bytes of ``tracestate`` that everybody has to pass on. A longer one is left out."""
_MAX_MEMBERS = 32
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_MEMBER = re.compile(
    rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)

outgoing: ContextVar[bytes] = ContextVar("outgoing", default=b"")
"""The header line that an engine is sent with what it is asked by this task; empty without a
trace."""


class TraceContext(NamedTuple):
    """A place in a trace."""

    trace_id: bytes
    span_id: bytes
    sampled: bool
    state: str = ""
    """``tracestate``, which says nothing to this server."""

    def line_for(self, span_id: bytes) -> bytes:
        """The header line that tells another place in the same trace."""
        flags = "01" if self.sampled else "00"
        return f"traceparent: 00-{self.trace_id.hex()}-{span_id.hex()}-{flags}\r\n".encode()


def read_context(headers: Sequence[tuple[bytes, bytes]]) -> TraceContext | None:
    """The caller's place in a trace; None if it tells none that can be read.

    Args:
        headers: of the request, their names in lower case.
    """
    parents = [value for name, value in headers if name == TRACEPARENT]
    found = _TRACEPARENT.fullmatch(parents[0].strip(b" \t")) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"00" and more is not None:  # later versions may have more
        return None
    return TraceContext(
        bytes.fromhex(trace_id.decode()),
        bytes.fromhex(span_id.decode()),
        bool(int(flags, 16) & 1),
        _read_state([value for name, value in headers if name == TRACESTATE]),
    )


def _read_state(values: Sequence[bytes]) -> str:
    """``tracestate``, whose lines are one list; empty if any of it is malformed."""
    joined = b",".join(values)
    members = [member for one in joined.split(b",") if (member := one.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members}
    whole = b",".join(members)
    fits = len(whole) <= _MAX_STATE and len(members) <= _MAX_MEMBERS and len(keys) == len(members)
    return whole.decode() if fits and all(map(_MEMBER.fullmatch, members)) else ""
