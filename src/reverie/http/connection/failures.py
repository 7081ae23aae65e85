"""What ended a request, in the words of the one error tree."""

from __future__ import annotations

import logging

from reverie.errors import ReverieError, ServerError
from reverie.log import fields

logger = logging.getLogger("reverie.request")


def as_reverie_error(failure: Exception, request_id: str) -> ReverieError:
    """A failure as an error of ours; one that isn't is a bug, and is logged as such, once."""
    if isinstance(failure, ReverieError):
        return failure
    logger.error(
        "a request failed in Reverie itself", exc_info=failure, extra=fields(id=request_id)
    )
    return ServerError("Something went wrong in the gateway. Its operator's log says what.")
