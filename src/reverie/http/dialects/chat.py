"""``/v1/chat/completions``: OpenAI's dialect."""

from __future__ import annotations

from collections.abc import Sequence

from reverie.errors import ReverieError
from reverie.events import Delta, Finish, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.connection.stream_writer import PING
from reverie.http.dialects.answer import usage_object
from reverie.http.dialects.base import Asked, Encoder
from reverie.http.dialects.chunks import DONE, NO_TEXT, NOT_FINISHED, ROLE, ChunkEncoder, encode
from reverie.http.dialects.errors import error_body, v1_status
from reverie.http.dialects.framing import EVENTS
from reverie.http.request.body import parse
from reverie.ids import random_id


class OpenAI:
    name = "openai"
    framing = EVENTS
    ping = PING
    id_headers = (b"x-request-id",)

    def parse(self, body: bytes) -> Asked:
        first, *more = parse(body)
        return Asked(first, tuple(more))

    def new_id(self, claim: Claim | None) -> str:
        return f"chatcmpl-{random_id()}"

    def status(self, error: ReverieError) -> int:
        return v1_status(error)

    def error_body(self, error: ReverieError) -> bytes:
        return error_body(error, self.status(error))

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> Encoder:
        include_usage = asked.request.include_usage
        choices = [
            OpenAIEncoder(
                id=id, model=model, created=created, include_usage=include_usage, index=index
            )
            for index in range(1 + len(asked.more))
        ]
        return ManyChoices(choices) if asked.more else choices[0]


class OpenAIEncoder(ChunkEncoder):
    """The role is on the first chunk; the usage, if asked for, in a last one without choices."""

    role_always = False
    content_beside_tool_calls = None

    def __init__(
        self, *, id: str, model: str, created: int, include_usage: bool, index: int = 0
    ) -> None:
        super().__init__(id=id, model=model, created=created, index=index)
        self._include_usage = include_usage

    def end(self, finish: Finish, usage: Usage) -> bytes:
        return self.end_choice(finish) + self.close(usage)

    def end_choice(self, finish: Finish) -> bytes:
        """The last chunk of this choice."""
        self._ended = True
        parts: list[bytes] = []
        if not self._began:
            parts += (self._open, ROLE, NO_TEXT, NOT_FINISHED)
        parts += (self._open, b'},"finish_reason":', encode(finish.reason), b"}]}\n\n")
        return b"".join(parts)

    def close(self, usage: Usage) -> bytes:
        """What follows the last chunk of the last choice."""
        if not self._include_usage:
            return DONE
        counted = encode(usage_object(usage))
        return b'%b"choices":[],"usage":%b}\n\n%b' % (self._head, counted, DONE)


class ManyChoices:
    """A ``ChoicesEncoder``: one encoder for each choice."""

    def __init__(self, choices: Sequence[OpenAIEncoder]) -> None:
        self._choices = choices
        self._ended: list[int] = []

    def batch(self, deltas: Sequence[Delta]) -> bytes:
        return self._choices[0].batch(deltas)

    def end(self, finish: Finish, usage: Usage) -> bytes:
        return self._choices[0].end(finish, usage)

    def error(self, error: ReverieError) -> bytes:
        return self._choices[broken_choice(len(self._choices), self._ended)].error(error)

    def answer(self, deltas: Sequence[Delta], finish: Finish, usage: Usage) -> bytes:
        return self.whole([(deltas, finish)], usage)

    def choice(self, index: int, deltas: Sequence[Delta], finish: Finish | None) -> bytes:
        one = self._choices[index]
        if finish is not None:
            self._ended.append(index)
        return one.batch(deltas) + (b"" if finish is None else one.end_choice(finish))

    def close(self, usage: Usage) -> bytes:
        return self._choices[0].close(usage)

    def whole(self, choices: Sequence[tuple[Sequence[Delta], Finish]], usage: Usage) -> bytes:
        return self._choices[0].whole(choices, usage)


def broken_choice(count: int, ended: Sequence[int]) -> int:
    """The choice that an error is told of, which is one whose end wasn't sent.

    Args:
        ended: those that have ended, in this order. The end of the last of all is sent together
            with that of the stream.
    """
    left = [index for index in range(count) if index not in ended]
    return left[0] if left else ended[-1]


OPENAI = OpenAI()
