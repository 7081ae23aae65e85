"""``/v1/responses/{id}``: answers that are kept, by their id: read, resumed, cancelled.

An answer is kept if its request said ``store`` or carried an ``Idempotency-Key``; its id holds the
key under which it is.
"""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import parse_qs

import msgspec
from msgspec import Struct

from reverie.errors import InvalidRequest, MethodNotAllowed, NotFound
from reverie.gateway.accounts.authentication import Caller
from reverie.gateway.accounts.kept_answers import Claim
from reverie.gateway.record import RequestRecord
from reverie.http.connection.exchange import Headers, Receive, Scope, Send, respond
from reverie.http.dialects.base import Asked
from reverie.http.dialects.responses import ResponsesEncoder, place_of
from reverie.http.frames import Source
from reverie.http.generate import Call, Generate
from reverie.http.idempotency.replays import Found
from reverie.http.replies import JSON, require_post
from reverie.request import GenerateRequest

PREFIX = "/v1/responses/"
_RESPONSE = re.compile(rb'(?:id: \d+\nevent: response\.created\n|\{"id":"resp_)')
"""What a stored answer of this dialect begins with."""
_NOT_KEPT = (
    "No response with this id is kept. Those are kept for a day whose request says store, or "
    "carries an Idempotency-Key."
)
_NOTHING = Asked(
    GenerateRequest(model="", messages=[], stream=True), echo={"fields": b"", "summary": False}
)
"""What a request without a body asks for."""


class _LastEvent(Struct):
    response: msgspec.Raw


class KeptResponses(Generate):
    """An ASGI application that gives what ``Generate`` has generated, or generates now."""

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        id, _, verb = str(scope["path"]).removeprefix(PREFIX).partition("/")
        record.route = PREFIX + ("{id}/cancel" if verb == "cancel" else "{id}")
        caller = await self._access.admit(scope)
        record.admitted(caller.name)
        if verb == "cancel":
            require_post(scope, self._settings)
        elif verb:
            raise NotFound("There is nothing here. docs/protocol.md lists the routes.")
        elif scope["method"] != "GET":
            raise MethodNotAllowed("GET")
        place = place_of(id)
        found = await self._find(caller, id)
        if found is None and verb and place is not None:
            await self._replays.cancel_elsewhere(caller, *place)
            found = await self._find(caller, id)
        if found is None or place is None:
            raise NotFound(_NOT_KEPT, param="response_id")
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not verb and _wants_stream(query):
            after = _event_number(found, query)
            call = Call(caller, _NOTHING, record, Claim(*place, after))
            await self._stream(scope, receive, send, call, partial(_resume, found, after, record))
            return
        if verb and found.running is not None:
            limit = self._settings.request_timeout
            async with self._in_flight.watched(scope, receive, limit, joins=True):
                await found.running.cancel()
                found = await self._find(caller, id) or found  # it may just have been complete
        record.status, record.outcome = 200, "ok"
        body = _body(found, "cancelled" if verb else "in_progress")
        await respond(send, 200, body, self._headers(record, JSON))

    async def _find(self, caller: Caller, id: str) -> Found | None:
        """The kept answer of this dialect with this id, if it is this caller's."""
        place = place_of(id)
        found = None if place is None else await self._replays.find(caller, *place)
        return found if found is not None and _is_response(found) else None


async def _resume(found: Found, after: int, record: RequestRecord, headers: Headers) -> Source:
    return found.read(after, record, headers)


def _is_response(found: Found) -> bool:
    """True if the answer is one of this dialect."""
    if found.running is not None:
        return isinstance(found.running.job.encoder, ResponsesEncoder)
    return _RESPONSE.match(found.stored) is not None


def _body(found: Found, status: str) -> bytes:
    """The answer as a JSON body, with this status if it isn't complete."""
    if found.running is not None and isinstance(found.running.job.encoder, ResponsesEncoder):
        return found.running.job.encoder.snapshot(status)
    if found.stored.startswith(b"{"):
        return found.stored
    data = found.stored.rpartition(b"\ndata: ")[2]
    return bytes(msgspec.json.decode(data, type=_LastEvent).response)


def _wants_stream(query: dict[str, list[str]]) -> bool:
    """Whether the events are asked for.

    Raises:
        InvalidRequest: that can't be told.
    """
    given = query.get("stream", ["false"])
    if given not in (["true"], ["false"]):
        raise InvalidRequest("stream is true or false.", param="stream")
    return given == ["true"]


def _event_number(found: Found, query: dict[str, list[str]]) -> int:
    """The number of the last event that the client has, as the stream's ``id:`` lines count."""
    after = query.get("starting_after")
    if found.stored.startswith(b"{") or not (found.running is None or found.running.job.numbered):
        raise InvalidRequest("This response was not streamed.", param="stream")
    if after is None:
        return 0
    if len(after) > 1 or not re.fullmatch("[0-9]{1,9}", after[0]):
        raise InvalidRequest(
            "starting_after is the sequence_number of the last event that arrived.",
            param="starting_after",
        )
    return found.transcript.first_number + int(after[0])
