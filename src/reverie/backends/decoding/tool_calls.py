"""The tool calls of one answer, told apart as engines write them.

OpenAI's rule is that a piece belongs to the call of its ``index``, and that ``id`` and ``name``
come with the first piece. Engines break each part of it: one index for all calls (Gemini's
adapters), no index (Gemini), a string, an id on every piece (SGLang), a new id on every piece
(older vLLM), no id, a name in fragments, a name on every piece.

Rule 1: an id that was seen belongs to its call, whatever the index says.

Rule 2: a piece that carries a name begins a call, unless the call that it would continue still
waits for the rest of its name or of its arguments.

Rule 3: calls are handed on with the indexes 0, 1, 2… in the order in which they began, each with an
id of its own.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import msgspec
from msgspec import Struct

from reverie.backends.decoding.utf8 import replace_surrogates
from reverie.events import ToolCallDelta


class FunctionPiece(Struct):
    name: str | None = None
    arguments: Any = None


class ToolCallPiece(Struct):
    index: int | str | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class _Call(Struct):
    """One call. ``sent``: its first piece was handed on. ``engine_id``: the one it came with."""

    index: int
    engine_id: str | None = None
    name: str = ""
    arguments: list[str] = []
    sent: bool = False


class ToolCalls:
    """Tells the calls of one answer apart.

    Args:
        names: of the functions that may be called. A name that is none of them may be a fragment,
            and is held until the rest comes, or the arguments begin.
    """

    __slots__ = ("_by_id", "_by_index", "_calls", "_names")

    def __init__(self, names: frozenset[str] = frozenset()) -> None:
        self._names = names
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int | str, _Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def read(self, pieces: list[ToolCallPiece], *, whole: bool) -> tuple[ToolCallDelta, ...]:
        """The pieces to hand on.

        Args:
            whole: they come from a message that isn't streamed, where each is a call of its own.
        """
        deltas = []
        for piece in pieces:
            function = piece.function or FunctionPiece()
            name, arguments = function.name or "", _text(function.arguments)
            if not (name or arguments or piece.id):
                continue
            call = None if whole else self._continued(piece, name, arguments)
            if call is None:
                call = self._begin(piece)
            if piece.index is not None:
                self._by_index[piece.index] = call
            if (delta := self._take(call, name, arguments)) is not None:
                deltas.append(delta)
        return tuple(deltas)

    def end(self, *, cut: bool) -> tuple[ToolCallDelta, ...]:
        """The last pieces: names that were held, and ``{}`` for a call without arguments.

        Args:
            cut: the answer was cut, so that the last call may not be whole.
        """
        last = self._calls[-1:] if cut else []
        deltas = []
        for call in self._calls:
            arguments = "" if call.arguments or call in last else "{}"
            if not call.sent:
                deltas.append(self._first(call, arguments))
            elif arguments:
                deltas.append(ToolCallDelta(call.index, arguments=arguments))
        return tuple(deltas)

    def _continued(self, piece: ToolCallPiece, name: str, arguments: str) -> _Call | None:
        """The call that the piece continues; None if it begins one."""
        if not self._calls:
            return None
        if piece.id and (known := self._by_id.get(piece.id)) is not None:
            return known
        call = self._calls[-1]
        if piece.index is not None:
            call = self._by_index.get(piece.index, call)
            if piece.index not in self._by_index and (piece.id or name):
                return None
        if not name:
            return None if piece.id and call.engine_id and not arguments else call
        if piece.id and call.engine_id:
            return None
        return None if self._is_next(call, piece, name, arguments) else call

    def _is_next(self, call: _Call, piece: ToolCallPiece, name: str, arguments: str) -> bool:
        """True if a name without an id of its own begins another call."""
        if not call.name:
            return False
        if call.arguments:
            return name != call.name or (bool(arguments) and _is_whole("".join(call.arguments)))
        if name == call.name:
            return False
        if self._names:
            return call.name in self._names
        return piece.index is None

    def _begin(self, piece: ToolCallPiece) -> _Call:
        taken = piece.id if piece.id and piece.id not in self._by_id else None
        call = _Call(len(self._calls), taken)
        self._calls.append(call)
        if taken:
            self._by_id[taken] = call
        return call

    def _take(self, call: _Call, name: str, arguments: str) -> ToolCallDelta | None:
        """Add a piece to its call; return what to hand on of it."""
        if name and not call.sent and not name.startswith(call.name):
            call.name += name  # a fragment
        elif name and not call.sent:
            call.name = name
        if arguments:
            call.arguments.append(arguments)
        if call.sent:
            return ToolCallDelta(call.index, arguments=arguments) if arguments else None
        if arguments or (call.name and (not self._names or call.name in self._names)):
            return self._first(call, arguments)
        return None

    def _first(self, call: _Call, arguments: str) -> ToolCallDelta:
        call.sent = True
        call_id = call.engine_id or f"call_{secrets.token_hex(12)}"
        name = replace_surrogates(call.name) or None
        return ToolCallDelta(call.index, replace_surrogates(call_id), name, arguments)


def _text(arguments: Any) -> str:
    """Arguments as JSON text; some engines send the object itself."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    try:
        return msgspec.json.encode(arguments).decode()
    except UnicodeEncodeError:  # it has half a character
        return replace_surrogates(json.dumps(arguments, ensure_ascii=False))


def _is_whole(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True
