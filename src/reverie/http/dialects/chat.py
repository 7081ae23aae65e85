"""``/v1/chat/completions``: OpenAI's dialect."""

from __future__ import annotations

from reverie.errors import ReverieError
from reverie.events import Finish, Usage
from reverie.http.connection.exchange import PING
from reverie.http.dialects.answer import usage_object
from reverie.http.dialects.base import Asked, Encoder
from reverie.http.dialects.chunks import DONE, NO_TEXT, NOT_FINISHED, ROLE, ChunkEncoder, encode
from reverie.http.dialects.errors import error_body
from reverie.http.dialects.framing import EVENTS
from reverie.http.request.body import parse


class OpenAI:
    name = "openai"
    framing = EVENTS
    ping = PING
    id_prefix = "chatcmpl"
    id_headers = (b"x-request-id",)

    def parse(self, body: bytes) -> Asked:
        return Asked(parse(body))

    def status(self, error: ReverieError) -> int:
        return error.status if error.openai_status is None else error.openai_status

    def error_body(self, error: ReverieError) -> bytes:
        return error_body(error, self.status(error))

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> Encoder:
        return OpenAIEncoder(
            id=id, model=model, created=created, include_usage=asked.request.include_usage
        )


class OpenAIEncoder(ChunkEncoder):
    """The role is on the first chunk; the usage, if asked for, in a last one without choices."""

    role_always = False
    content_beside_tool_calls = None

    def __init__(self, *, id: str, model: str, created: int, include_usage: bool) -> None:
        super().__init__(id=id, model=model, created=created)
        self._include_usage = include_usage

    def end(self, finish: Finish, usage: Usage) -> bytes:
        parts: list[bytes] = []
        if not self._began:
            parts += (self._open, ROLE, NO_TEXT, NOT_FINISHED)
        parts += (self._open, b'},"finish_reason":', encode(finish.reason), b"}]}\n\n")
        if self._include_usage:
            counted = encode(usage_object(usage))
            parts += (self._head, b'"choices":[],"usage":', counted, b"}\n\n")
        parts.append(DONE)
        return b"".join(parts)


OPENAI = OpenAI()
