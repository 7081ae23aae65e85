"""The one error tree: whose fault it is, its HTTP status and its wire code.

Rule 1: every failure that a caller can see is one of these classes. A library's exception is
translated where the library is called, once, and never leaks past that place.

Rule 2: a message is written for the person who reads it. It says what to do, and carries no
path, no secret and none of an engine's raw text.

The class decides the status and the code (docs/protocol.md#errors); the *dialect* decides the
shape. Three codes have one status on ``/llm`` and another on ``/v1``, and so an ``openai_status``:
``invalid_request``, ``unsupported_parameter`` and ``model_not_found``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from msgspec import Struct


class ReverieError(Exception):
    """A failure with a status and a wire code.

    Args:
        message: one sentence for the reader.
        param: the request's field that is at fault, as a dotted path.
        retry_after: seconds until another try makes sense, sent as ``Retry-After``.
    """

    status: ClassVar[int] = 500
    openai_status: ClassVar[int | None] = None
    """The status on OpenAI's routes, where it differs from ``status``."""
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer must carry."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


# The client's fault -----------------------------------------------------------------------


class ClientError(ReverieError):
    """The request can't be served as it is; sending it again changes nothing."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidRequest(ClientError):
    """The body isn't JSON, has a wrong type, or is out of bounds.

    ``details`` is the list that Livepeer's clients parse on a 422:
    ``[{"loc": [...], "msg": ..., "type": ...}]``.
    """

    status = 422
    openai_status = 400

    def __init__(
        self, message: str, *, param: str | None = None, details: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.details = details or [
            {
                "loc": ["body", *(param.split(".") if param else ())],
                "msg": message,
                "type": "value_error",
            }
        ]


class UnsupportedParameter(InvalidRequest):
    """A field that is unknown, or that the chosen backend can't honour."""

    code = "unsupported_parameter"


class ModelNotFound(ClientError):
    """No model has this name."""

    status = 400
    openai_status = 404
    code = "model_not_found"


class WrongTask(ClientError):
    """The model isn't for what it is asked, or none of its engines can do that."""


class RefusedByBackend(ClientError):
    """A well-formed request that the engine itself refuses: trying elsewhere is no use."""


class ContextLengthExceeded(ClientError):
    """The prompt doesn't fit the model's context."""

    code = "context_length_exceeded"

    def __init__(
        self,
        prompt_tokens: int | None,
        context_tokens: int | None,
        *,
        max_tokens: int | None = None,
        param: str = "messages",
    ) -> None:
        """``max_tokens`` is what the request asks for beyond a prompt that fits by itself, and
        ``param`` the field that holds the prompt.

        The words are OpenAI's: clients look for them to know that they must shorten a
        conversation.
        """
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
        limit = "This model's maximum context length"
        shorten = f"Please reduce the length of the {param}"
        if prompt_tokens and context_tokens and max_tokens:
            message = (
                f"{limit} is {context_tokens} tokens. However, you requested "
                f"{prompt_tokens + max_tokens} tokens ({prompt_tokens} in the messages, "
                f"{max_tokens} in the completion). {shorten}, or lower max_tokens."
            )
            param = "max_tokens"
        elif context_tokens:
            resulted = f"{prompt_tokens} tokens" if prompt_tokens else "more"
            message = (
                f"{limit} is {context_tokens} tokens. However, your {param} resulted in "
                f"{resulted}. {shorten}."
            )
        else:
            counted = f" of {prompt_tokens} tokens" if prompt_tokens else ""
            message = f"{limit} is exceeded by your {param}{counted}. {shorten}."
        super().__init__(message, param=param)


class InvalidHeader(InvalidRequest):
    """A header that a request may carry is malformed."""

    def __init__(self, header: str, message: str) -> None:
        details = [{"loc": ["header", header], "msg": message, "type": "value_error"}]
        super().__init__(message, param=header, details=details)


class IdempotencyKeyReused(InvalidHeader):
    """The same ``Idempotency-Key``, with another request."""

    openai_status = 422
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "Idempotency-Key",
            "This Idempotency-Key was used with another request. Use a new key for a new request.",
        )


class RequestInProgress(ClientError):
    """The same request runs on another gateway, and did not end while we waited."""

    status = 409
    code = "request_in_progress"

    def __init__(self) -> None:
        super().__init__(
            "A request with this Idempotency-Key is still running. Try again shortly.",
            retry_after=2,
        )


class AnswerNotKept(ClientError):
    """The same request was completed, and its answer can't be sent again."""

    status = 409
    code = "answer_not_kept"

    def __init__(self) -> None:
        super().__init__(
            "The request with this Idempotency-Key was completed, and its answer was too large to "
            "be kept. Use a new key to generate it anew."
        )


class Conflict(ClientError):
    """What an operator asks for can't be done while something else runs."""

    status = 409
    code = "conflict"


class AnswerCancelled(ClientError):
    """Its client asked for the end of an answer that it didn't wait for itself, or the operator."""

    status = 409
    code = "answer_cancelled"

    def __init__(self, by: Literal["client", "operator"] = "client") -> None:
        whom = "its client" if by == "client" else "the server's operator"
        super().__init__(f"The answer was cancelled by {whom}.")
        self.by = by


class StreamNotResumable(ClientError):
    """``Last-Event-ID`` names an event of a stream that isn't there any more."""

    status = 410
    code = "stream_not_resumable"

    def __init__(self) -> None:
        super().__init__(
            "There is no such stream to resume: it was given up, or has no such event. Send "
            "the request without Last-Event-ID to generate it anew."
        )


class RequestTooLarge(ClientError):
    status = 413
    code = "request_too_large"


class UnsupportedEncoding(ClientError):
    """The body is compressed in a way that isn't read here."""

    status = 415
    code = "unsupported_encoding"

    def __init__(self, supported: Sequence[str]) -> None:
        listed = ", ".join(supported)
        super().__init__(
            f"This Content-Encoding is not supported. Send the body plain, or in one of: {listed}."
        )
        self._supported = listed

    @property
    def headers(self) -> dict[str, str]:
        return {"Accept-Encoding": self._supported}


class RequestTimeout(ClientError):
    """The body didn't arrive in time."""

    status = 408
    code = "request_timeout"


class NotFound(ClientError):
    status = 404
    code = "not_found"


class MethodNotAllowed(ClientError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This route answers {allowed} only.")
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": self.allowed}


class ClientGone(ReverieError):
    """The client closed the connection. It is never sent: it stands in the request's log line.

    499 is nginx's status for this (``NGX_HTTP_CLIENT_CLOSED_REQUEST``).
    """

    status = 499
    code = "client_gone"
    by: Literal["client"] = "client"


# The key's fault --------------------------------------------------------------------------


class InvalidApiKey(ReverieError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(ReverieError):
    """The caller may not do this at all; see docs/protocol.md#who-may-call."""

    status = 403
    code = "forbidden"
    type = "permission_error"


class ModelNotAllowed(ReverieError):
    """The key may not use this model."""

    status = 403
    code = "model_not_allowed"
    type = "permission_error"


class RateStatus(Struct, frozen=True):
    """What is left of a caller's limits per minute; None where there is no such limit.

    Resets are the seconds until the whole limit is there again.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens: float = 0.0

    def tighter(self, other: RateStatus) -> RateStatus:
        """The one of two that leaves less: by requests, and by tokens."""
        requests = min(self, other, key=lambda s: _or_infinite(s.remaining_requests))
        tokens = min(self, other, key=lambda s: _or_infinite(s.remaining_tokens))
        return RateStatus(
            requests.limit_requests,
            requests.remaining_requests,
            requests.reset_requests,
            tokens.limit_tokens,
            tokens.remaining_tokens,
            tokens.reset_tokens,
        )

    @property
    def headers(self) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-*`` headers; a reset is written like ``1.5s``."""
        headers = {}
        for what, limit, remaining, reset in (
            ("requests", self.limit_requests, self.remaining_requests, self.reset_requests),
            ("tokens", self.limit_tokens, self.remaining_tokens, self.reset_tokens),
        ):
            if limit is not None:
                headers[f"x-ratelimit-limit-{what}"] = str(limit)
                headers[f"x-ratelimit-remaining-{what}"] = str(remaining)
                headers[f"x-ratelimit-reset-{what}"] = f"{reset:.3g}s"
        return headers


def _or_infinite(value: int | None) -> float:
    return float("inf") if value is None else value


class RateLimitExceeded(ReverieError):
    """A limit per minute or at once. Without ``retry_after`` no wait will help.

    ``by_size``: the same request with a shorter prompt would have been within it.
    """

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"

    def __init__(
        self,
        message: str,
        *,
        rate: RateStatus,
        param: str | None = None,
        retry_after: float | None = None,
        by_size: bool = False,
    ) -> None:
        super().__init__(message, param=param, retry_after=retry_after)
        self.rate = rate
        self.by_size = by_size

    @property
    def headers(self) -> dict[str, str]:
        return _waitable(super().headers) | self.rate.headers


class InsufficientQuota(ReverieError):
    """The key's budget for this period is spent, or reserved for requests that run.

    ``by_size``: the same request with a shorter prompt would have been within it.
    """

    status = 429
    code = "insufficient_quota"
    type = "insufficient_quota"

    def __init__(
        self, message: str, *, retry_after: float | None = None, by_size: bool = False
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.by_size = by_size

    @property
    def headers(self) -> dict[str, str]:
        return _waitable(super().headers)


def _waitable(headers: dict[str, str]) -> dict[str, str]:
    """The header that keeps OpenAI's SDKs from retrying a 429 where that can't help."""
    return headers if headers else {"x-should-retry": "false"}


# The server's fault -----------------------------------------------------------------------


class ServerError(ReverieError):
    """An error of ours: logged with its traceback, sent without it."""


class Overloaded(ReverieError):
    """The queue is full, its deadline has passed, or the server is draining."""

    status = 503
    code = "overloaded"
    timed_out = False
    """True if it was the queue's deadline."""


class EngineMemoryFull(Overloaded):
    """The requests that an engine runs came to more tokens together than its memory holds."""


class ServerStopped(Overloaded):
    """The server stops, and ended a request that was running. It isn't billed."""

    def __init__(self) -> None:
        super().__init__("This server is shutting down. Try again shortly.", retry_after=1)


class ModelLoading(Overloaded):
    """The model isn't ready to answer yet."""

    code = "model_loading"


class AccountsUnavailable(Overloaded):
    """The store of accounts doesn't answer. Nothing is served that can't be accounted for."""

    def __init__(self) -> None:
        super().__init__(
            "The accounts can't be written at the moment. Try again shortly.", retry_after=2
        )


# A backend's fault ------------------------------------------------------------------------


class BackendError(ReverieError):
    """A backend failed: it refused the connection, broke off, or sent something unreadable.

    ``reason`` says what happened, for the log; it is never sent. ``said`` is what its engine
    answered, to be compared with what another one does: never sent, never logged.
    """

    status = 502
    code = "backend_error"
    type = "backend_error"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        retry_after: float | None = None,
        said: str = "",
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason
        self.said = said


class ConnectionLost(BackendError):
    """A backend can't be reached, or broke off: it may have died."""


class BackendTimeout(BackendError):
    """A backend was silent past its limit."""

    status = 504
    code = "backend_timeout"


class DeadlinePassed(BackendTimeout):
    """An answer took longer than any may (``server.request_timeout``)."""


# Start-up ---------------------------------------------------------------------------------

MOST_PROBLEMS = 20
"""Problems of a configuration that are listed; of more, the count is."""


class ConfigurationError(Exception):
    """What the operator wrote can't be run.

    ``problems`` holds one sentence each; of many, the first and how many more there are.

    Args:
        more: how many there are that ``problems`` leaves out.
    """

    def __init__(self, problems: list[str], more: int = 0) -> None:
        more += max(0, len(problems) - MOST_PROBLEMS)
        problems = problems[:MOST_PROBLEMS]
        if more:
            problems.append(f"and {more} more")
        super().__init__("\n".join(problems))
        self.problems = problems


class ModelError(Exception):
    """A model can't be found, fetched or used. The message is one sentence for the operator."""


class ClusterError(Exception):
    """The cluster can't be used. The message is one sentence for the operator, and says why."""


class UpkeepError(Exception):
    """A store can't be backed up, restored or cleaned up. The message is one sentence for the
    operator, and says what to do."""


class UnusableBackup(UpkeepError):
    """A backup can't be restored by this version. The message is what follows the file's name."""


class StoreFailure(Exception):
    """The database of accounts could not do it; the message says why, without its address.

    ``transient``: it may well succeed at another time. Otherwise the database refuses what it was
    asked.
    """

    def __init__(self, reason: str, *, transient: bool = True) -> None:
        super().__init__(reason)
        self.transient = transient
