"""An answer that is gone on with when its connection drops or its server restarts.

Every request carries an ``Idempotency-Key``, so that asking again costs nothing: the same request
with the last event's number gets the rest. A server that was restarted has lost the stream; then
the model is asked to go on from the text that is here, and begins anew where it can't.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import msgspec
import typer

from reverie.cli.connection import (
    CallFailed,
    Connection,
    Lost,
    Piece,
    Refused,
    Unreachable,
    streamed,
)

_STREAM_IS_GONE = ("stream_not_resumable", "answer_not_kept")
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 5.0

_T = TypeVar("_T")


def _note(sentence: str) -> None:
    typer.echo(f"note: {sentence}", err=True)


class Answer:
    """One answer. Not reusable.

    Args:
        body: the request.
        may_begin_anew: whether text that has come can still be taken back.
        note: called with a sentence on what is amiss.
    """

    def __init__(
        self,
        connection: Connection,
        body: dict[str, Any],
        *,
        may_begin_anew: bool,
        note: Callable[[str], None] = _note,
    ) -> None:
        self._connection = connection
        self._body = body
        self._may_begin_anew = may_begin_anew
        self._note = note
        self._text = ""
        self._pieces = 0  # each has at least one token
        self._pieces_before = 0  # those of earlier requests, which the last one goes on from
        self._is_continuation = False
        self._begins_anew = False
        self._is_asked_anew = False  # and nothing has come of that yet
        self._tries = 0
        self._lost_at = 0.0
        self._has_news = True  # since the connection was lost
        self._is_away = False
        self._sent: dict[str, Any]
        self._headers: dict[str, str]
        self._last_id: int
        self._ask(body)

    def pieces(self) -> Generator[Piece, None, None]:
        """The pieces, as they come. Leaving them before the end ends the answer on the server.

        Raises:
            CallFailed: there is no answer, or it broke off for good.
        """
        yield from self._persist(self._stream)

    def whole(self) -> Any:
        """The answer in one piece, as the server gives it.

        Raises:
            CallFailed: there is none.
        """
        [answer] = self._persist(lambda: [self._connection.ask(self._sent, self._headers)])
        return answer

    def _persist(self, attempt: Callable[[], Iterable[_T]]) -> Generator[_T, None, None]:
        """What the attempts bring, until one of them ends well."""
        try:
            while True:
                try:
                    yield from attempt()
                except CallFailed as failure:
                    wait = self._mend(failure)
                else:
                    return
                time.sleep(wait)
        except CallFailed:
            raise
        except BaseException:  # the user has left
            with contextlib.suppress(CallFailed):
                self._connection.cancel(self._sent, self._headers)
            raise

    def _stream(self) -> Generator[Piece, None, None]:
        if self._begins_anew:
            self._begins_anew = False
            yield Piece(begins_anew=True)
        if self._left == 0:  # only its end was lost
            yield Piece(finish_reason="length")
            return
        self._sent = streamed(self._sent)
        for piece in self._connection.stream(self._sent, self._headers):
            if piece.id is not None:
                if piece.id <= self._last_id:
                    raise self._connection.unknown()  # its text would be shown twice
                self._last_id = piece.id
                self._headers["Last-Event-ID"] = str(piece.id)
            if self._is_away:
                self._is_away = False
                self._note("the answer goes on")
            if piece.text or piece.reasoning:
                self._has_news, self._is_asked_anew = True, False
                self._pieces += 1
                self._text += piece.text
            yield self._with_total(piece)

    def _mend(self, failure: CallFailed) -> float:
        """Prepare the next attempt; give the seconds to wait before it.

        Raises:
            CallFailed: nothing can be done.
        """
        if isinstance(failure, Refused) and self._ask_anew(failure):
            return 0.0
        if not self._may_pass(failure):
            raise failure
        now = time.monotonic()
        if self._has_news:
            self._has_news, self._tries, self._lost_at = False, 0, now
        if now - self._lost_at >= self._connection.patience:
            raise failure
        if not self._is_away:
            self._is_away = True
            self._note("the connection to the server was lost; trying to go on …")
        wait = failure.retry_after if isinstance(failure, Refused) else None
        self._tries += 1
        return min(wait or _FIRST_WAIT * 2 ** (self._tries - 1), _LONGEST_WAIT)

    def _may_pass(self, failure: CallFailed) -> bool:
        """True if the same request can bring the rest later."""
        was_begun = bool(self._tries or self._pieces)
        if isinstance(failure, Refused):
            return failure.is_passing and was_begun
        if not isinstance(failure, Lost):
            return False
        if self._pieces > self._pieces_before and "Last-Event-ID" not in self._headers:
            return False  # no Reverie: it would begin from the front
        return was_begun or not isinstance(failure, Unreachable)

    def _ask_anew(self, error: Refused) -> bool:
        """Prepare another request, where the server has lost the answer or can't go on with it."""
        if self._is_continuation and error.status == 400:
            self._restart()
        elif error.code not in _STREAM_IS_GONE or self._is_asked_anew:
            return False
        elif self._text:
            self._continue()
        else:
            self._restart()
        self._is_away, self._is_asked_anew = False, True
        return True

    def _continue(self) -> None:
        self._note("the server has lost this answer; its model goes on from what is here")
        self._pieces_before = self._pieces
        self._is_continuation = True
        begun = {"role": "assistant", "content": self._text}
        body = {
            **self._body,
            "messages": [*self._body["messages"], begun],
            "continue_final_message": True,
        }
        if self._left is not None:
            body["max_tokens"] = self._left
        self._ask(body)

    def _restart(self) -> None:
        if self._text and not self._may_begin_anew:
            raise CallFailed(
                "The server has lost this answer, and its model can't go on from what is here: "
                "ask again."
            )
        if self._pieces:
            self._note("the server has lost this answer; it begins anew")
        self._text, self._pieces, self._pieces_before = "", 0, 0
        self._is_continuation, self._begins_anew = False, True
        self._ask(self._body)

    def _ask(self, body: dict[str, Any]) -> None:
        self._sent = body
        self._headers = {"Idempotency-Key": secrets.token_urlsafe(24)}
        self._last_id = -1

    @property
    def _left(self) -> int | None:
        """The tokens that a request for the rest may still have; None: as many as there are."""
        most = self._body.get("max_tokens")
        return None if most is None else max(0, most - self._pieces_before)

    def _with_total(self, piece: Piece) -> Piece:
        """Count what earlier requests brought, which the last one has in its prompt."""
        if piece.usage is None or not self._pieces_before:
            return piece
        usage = {
            **piece.usage,
            "prompt_tokens": max(0, piece.usage["prompt_tokens"] - self._pieces_before),
            "completion_tokens": piece.usage["completion_tokens"] + self._pieces_before,
        }
        return msgspec.structs.replace(piece, usage=usage)
