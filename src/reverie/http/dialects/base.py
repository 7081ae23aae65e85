"""What every dialect offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from reverie.errors import ReverieError
from reverie.events import Delta, Finish, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.dialects.framing import Framing
from reverie.request import GenerateRequest


class Asked(NamedTuple):
    """A request's body, parsed and checked."""

    request: GenerateRequest
    more: tuple[GenerateRequest, ...] = ()
    """The generations of further choices, where its dialect's encoder is a ``ChoicesEncoder``."""
    told: Sequence[tuple[bytes, bytes]] = ()
    """Headers that its answer carries."""
    echo: Mapping[str, Any] = MappingProxyType({})
    """What else its answer repeats, in the dialect's own names."""
    key: str | None = None
    """An idempotency key for it, if its answer is to be kept though the client sent none."""
    moves_model: bool = False
    """Nothing is to be generated: the model is to be loaded, or unloaded."""


class Encoder(Protocol):
    """Writes one answer, either as a stream (``batch``… then ``end`` or ``error``) or whole."""

    def batch(self, deltas: Sequence[Delta]) -> bytes:
        """The chunks for deltas that arrived together, for one write; empty if there are none."""

    def end(self, finish: Finish, usage: Usage) -> bytes:
        """The last chunk or chunks, and the end mark of a complete stream."""

    def error(self, error: ReverieError) -> bytes:
        """The last chunk of a stream that broke. No end mark follows, so it can't look complete.

        What ``end`` gave, if it was called, was not sent, and neither was the batch before it: they
        are one write, which waits for the ledger.
        """

    def answer(self, deltas: Sequence[Delta], finish: Finish, usage: Usage) -> bytes:
        """The one JSON body of an answer that isn't streamed."""


class Dialect(Protocol):
    """The shape of answers and errors on one family of routes."""

    @property
    def name(self) -> str:
        """Its name in one word."""

    @property
    def framing(self) -> Framing:
        """How its streams are laid out."""

    @property
    def ping(self) -> bytes:
        """What bridges silence in a stream."""

    def new_id(self, claim: Claim | None) -> str:
        """An id for an answer, which is kept for a claim if there is one."""

    @property
    def id_headers(self) -> Sequence[bytes]:
        """Names of the headers that carry the request's id."""

    def parse(self, body: bytes) -> Asked:
        """Parse and check a request's body.

        Raises:
            InvalidRequest, UnsupportedParameter
        """

    def status(self, error: ReverieError) -> int:
        """The HTTP status of an error that came before the answer began."""

    def error_body(self, error: ReverieError) -> bytes:
        """The JSON body that goes with ``status``."""

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> Encoder:
        """Begin an answer.

        Args:
            id: the answer's own id, as in ``chatcmpl-…``.
            model: the name of the model that answers.
            created: seconds since 1970.
        """
