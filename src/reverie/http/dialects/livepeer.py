"""``/llm``: Livepeer's dialect.

Its clients decide three things. The Go gateway reads ``choices[0]`` of every chunk unchecked, and
stops at the first finish reason: so no chunk has empty ``choices``, and the last one carries the
usage. Their parsers want a string as content everywhere.
"""

from __future__ import annotations

from reverie.errors import ReverieError
from reverie.events import Finish, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.connection.stream_writer import PING
from reverie.http.dialects.answer import usage_object
from reverie.http.dialects.base import Asked, Encoder
from reverie.http.dialects.chunks import DONE, NO_TEXT, ROLE, ChunkEncoder, encode
from reverie.http.dialects.errors import error_body
from reverie.http.dialects.framing import EVENTS
from reverie.http.request.body import parse_one
from reverie.ids import random_id


class Livepeer:
    name = "livepeer"
    framing = EVENTS
    ping = PING
    id_headers = (b"x-request-id",)

    def parse(self, body: bytes) -> Asked:
        return Asked(parse_one(body))

    def new_id(self, claim: Claim | None) -> str:
        return f"chatcmpl-{random_id()}"

    def status(self, error: ReverieError) -> int:
        return error.status

    def error_body(self, error: ReverieError) -> bytes:
        return error_body(error, self.status(error))

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> Encoder:
        """Begin an answer; its usage is always sent."""
        return LivepeerEncoder(id=id, model=model, created=created)


class LivepeerEncoder(ChunkEncoder):
    """The role on every chunk, and the usage on the last one."""

    role_always = True
    content_beside_tool_calls = ""

    def end(self, finish: Finish, usage: Usage) -> bytes:
        return b'%b%b%b},"finish_reason":%b}],"usage":%b}\n\n%b' % (
            self._open,
            ROLE,
            NO_TEXT,
            encode(finish.reason),
            encode(usage_object(usage)),
            DONE,
        )


LIVEPEER = Livepeer()
