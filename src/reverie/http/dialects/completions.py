"""``/v1/completions``: OpenAI's older dialect, whose prompts no chat template touches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from reverie.errors import ReverieError
from reverie.events import Delta, Finish, TokenLogprob, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.connection.stream_writer import PING
from reverie.http.dialects.answer import logprob_object, usage_object
from reverie.http.dialects.base import Asked
from reverie.http.dialects.chat import OPENAI, broken_choice
from reverie.http.dialects.chunks import DONE, encode
from reverie.http.dialects.errors import error_object
from reverie.http.dialects.framing import EVENTS
from reverie.http.dialects.split import MAX_CHARACTERS, split
from reverie.http.request.completions import parse
from reverie.ids import random_id

_TEXT_HEAD = b',"choices":[{"index":%d,"logprobs":null,"text":'
_TEXT_END = b',"finish_reason":null}]}\n\n'


class Completions:
    name = "completions"
    framing = EVENTS
    ping = PING
    id_headers = (b"x-request-id",)

    def parse(self, body: bytes) -> Asked:
        (first, *more), echoes = parse(body)
        return Asked(first, tuple(more), echo={"prompts": echoes})

    def new_id(self, claim: Claim | None) -> str:
        return f"cmpl-{random_id()}"

    def status(self, error: ReverieError) -> int:
        return OPENAI.status(error)

    def error_body(self, error: ReverieError) -> bytes:
        return OPENAI.error_body(error)

    def encoder(self, asked: Asked, *, id: str, model: str, created: int) -> CompletionsEncoder:
        return CompletionsEncoder(asked, id=id, model=model, created=created)


COMPLETIONS = Completions()


class CompletionsEncoder:
    """Writes the text of one choice or of several."""

    def __init__(self, asked: Asked, *, id: str, model: str, created: int) -> None:
        self._envelope = {
            "id": id,
            "object": "text_completion",
            "created": created,
            "model": model,
        }
        self._open = b"data: " + encode(self._envelope)[:-1]
        self._include_usage = asked.request.include_usage
        self._logprobs = asked.request.logprobs
        self._prompts: dict[int, str] = dict(enumerate(asked.echo.get("prompts", ())))
        """What each choice is still to begin with."""
        self._offsets: dict[int, int] = {}
        self._count = 1 + len(asked.more)
        self._ended: list[int] = []

    def batch(self, deltas: Sequence[Delta]) -> bytes:
        return self.choice(0, deltas, None)

    def end(self, finish: Finish, usage: Usage) -> bytes:
        return self.choice(0, (), finish) + self.close(usage)

    def error(self, error: ReverieError) -> bytes:
        index = broken_choice(self._count, self._ended)
        choice = b'{"text":"","index":%d,"logprobs":null,"finish_reason":"error"}' % index
        told = encode(error_object(error))
        return b'%b,"choices":[%b],"error":%b}\n\n' % (self._open, choice, told)

    def answer(self, deltas: Sequence[Delta], finish: Finish, usage: Usage) -> bytes:
        return self.whole([(deltas, finish)], usage)

    def choice(self, index: int, deltas: Sequence[Delta], finish: Finish | None) -> bytes:
        """As ``ChoicesEncoder.choice``."""
        parts: list[bytes] = []
        if (deltas or finish) and (prompt := self._prompts.pop(index, "")):
            for piece in split(Delta(prompt)):
                parts.append(self._chunk(index, piece.text))
        for delta in deltas:
            if not delta.logprobs and len(delta.text) <= MAX_CHARACTERS:
                if delta.text:
                    parts += (self._open, _TEXT_HEAD % index, encode(delta.text), _TEXT_END)
                continue
            for piece in split(delta):
                if piece.text or piece.logprobs:
                    parts.append(self._chunk(index, piece.text, piece.logprobs))
        if finish is not None:
            self._ended.append(index)
            parts.append(self._chunk(index, "", (), finish.reason))
        return b"".join(parts)

    def close(self, usage: Usage) -> bytes:
        """As ``ChoicesEncoder.close``."""
        if not self._include_usage:
            return DONE
        counted = encode(usage_object(usage))
        return b'%b,"choices":[],"usage":%b}\n\n%b' % (self._open, counted, DONE)

    def whole(self, choices: Sequence[tuple[Sequence[Delta], Finish]], usage: Usage) -> bytes:
        """As ``ChoicesEncoder.whole``."""
        written = []
        for index, (deltas, finish) in enumerate(choices):
            text = self._prompts.get(index, "") + "".join([delta.text for delta in deltas])
            logprobs = [entry for delta in deltas for entry in delta.logprobs]
            written.append(self._choice(index, text, logprobs, finish.reason))
        return msgspec.json.encode(
            {**self._envelope, "choices": written, "usage": usage_object(usage)}
        )

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob] = (),
        reason: str | None = None,
    ) -> bytes:
        choice = encode(self._choice(index, text, logprobs, reason))
        return b'%b,"choices":[%b]}\n\n' % (self._open, choice)

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], reason: str | None
    ) -> dict[str, Any]:
        return {
            "text": text,
            "index": index,
            "logprobs": self._logprobs_object(index, logprobs) if logprobs else None,
            "finish_reason": reason,
        }

    def _logprobs_object(self, index: int, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The older shape: a list for each kind of fact."""
        plain = [logprob_object(entry) for entry in entries]
        offsets = []
        offset = self._offsets.get(index, 0)
        for entry in entries:
            offsets.append(offset)
            offset += len(entry.token)
        self._offsets[index] = offset
        return {
            "tokens": [one["token"] for one in plain],
            "token_logprobs": [one["logprob"] for one in plain],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in one["top_logprobs"]} for one in plain
            ],
            "text_offset": offsets,
        }
