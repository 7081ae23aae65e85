"""What routes share whose requests are recorded: one log line, metrics, an error in its dialect."""

from __future__ import annotations

import asyncio

from reverie.errors import ReverieError, ServerStopped
from reverie.gateway.metrics import Metrics
from reverie.gateway.record import RequestRecord
from reverie.http.access import Access
from reverie.http.connection.exchange import Receive, Scope, Send, as_reverie_error
from reverie.http.connection.protocol import drop
from reverie.http.dialects.base import Dialect
from reverie.http.replies import refuse

RECORDS = "reverie.records"
"""Where a scope has a list that whoever logs the request wants its record in."""


class RecordedRoute:
    """An ASGI application; its subclasses answer."""

    def __init__(self, dialect: Dialect, access: Access, metrics: Metrics) -> None:
        self._dialect = dialect
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self._access.new_record(scope)
        if (records := scope.get(RECORDS)) is not None:
            records.append(record)
        self._metrics.began(record)
        try:
            await self._answer(scope, receive, send, record)
        except asyncio.CancelledError:  # the server ends, and waits for nobody any more
            if record.status == 200:
                record.failed(ServerStopped())
                raise
            await self._refuse(scope, send, record, ServerStopped())
        except Exception as failure:
            await self._refuse(scope, send, record, as_reverie_error(failure, record.id))
        finally:
            record.close()
            self._metrics.observe(record)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        """Answer the request, and note in its record how it went."""
        raise NotImplementedError

    async def _refuse(
        self, scope: Scope, send: Send, record: RequestRecord, error: ReverieError
    ) -> None:
        """Answer with an error, or break off an answer that has begun."""
        record.failed(error)
        begun = record.status == 200
        record.status = self._dialect.status(error)
        if begun:
            await drop(scope)  # the client may have stopped reading only
        else:
            await refuse(scope, send, self._dialect, error, record.id)
