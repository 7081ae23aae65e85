"""Begins the trace of each request, and hands those that have ended to the exporter."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from reverie.errors import ConfigurationError
from reverie.gateway.record import RequestRecord
from reverie.gateway.traces.content import ContentRecord
from reverie.gateway.traces.exporter import Exporter
from reverie.gateway.traces.options import TraceOptions, options_of
from reverie.gateway.traces.trace import Endpoint, Trace, new_id
from reverie.log import fields
from reverie.settings import TracesSettings
from reverie.trace_context import TraceContext

logger = logging.getLogger("reverie.traces")

_HTTP_METHODS = frozenset(
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"]
)


class Tracer:
    """The traces of one server process.

    Raises:
        ConfigurationError: what is needed for traces isn't installed, or the endpoint can't be
            used.
    """

    def __init__(self, options: TraceOptions) -> None:
        self._options = options
        self._record = ContentRecord if options.content else RequestRecord
        self.exporter = Exporter(options, instance=str(uuid.uuid4()))

    def record(
        self, id: str, scope: Mapping[str, Any], claimed: TraceContext | None
    ) -> RequestRecord:
        """The record of a request, with its trace.

        Args:
            claimed: its caller's place in a trace.
        """
        path: str = scope["path"]
        address, port = scope.get("server") or (None, None)
        record = self._record(id, path)
        record.trace = Trace(
            self._options,
            TraceContext(new_id(16), new_id(8), random.random() < self._options.sample),
            self.exporter.add,
            _endpoint(scope["method"], scope["scheme"], address, port),
            path,
            claimed,
        )
        return record

    def start(self) -> None:
        """Begin to export."""
        self.exporter.start()

    async def stop(self) -> None:
        """Export what is left, within a few seconds. Idempotent."""
        await self.exporter.stop()


@lru_cache(maxsize=64)
def _endpoint(method: str, scheme: str, address: str | None, port: int | None) -> Endpoint:
    return Endpoint(method if method in _HTTP_METHODS else "_OTHER", scheme, address, port)


def tracer_of(settings: TracesSettings, environ: Mapping[str, str]) -> Tracer | None:
    """What traces requests, if they are to be traced.

    Raises:
        ConfigurationError: as ``options_of`` and ``Tracer``.
    """
    options = options_of(settings, environ)
    if options is None:
        return None
    try:
        return Tracer(options)
    except ConfigurationError as error:
        if options.is_configured:
            raise
        # The variables may be there for every program of the machine.
        logger.warning("no traces are sent", extra=fields(reason="; ".join(error.problems)))
        return None
