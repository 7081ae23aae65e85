"""Translates an engine's error into one of Reverie's, by its status and body.

Engines word the same error differently. The wordings here were taken from the sources of
llama.cpp (``exceed_context_size_error``), vLLM, SGLang, Ollama, OpenAI, Livepeer's ai-runner, and
Reverie itself.

Rule: an engine's text decides which error it is, and is never passed on. Its type and code may
go into the log.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from reverie.errors import (
    BackendError,
    BackendTimeout,
    ContextLengthExceeded,
    EngineMemoryFull,
    ModelLoading,
    Overloaded,
    RefusedByBackend,
    ReverieError,
)
from reverie.request import GenerateRequest

_LOADING_RETRY_AFTER = 2.0
_BUSY_RETRY_AFTER = 1.0
_MAX_RETRY_AFTER = 3600.0

_MAX_SAID = 200

_IDENTIFIER = re.compile(r"[\w.-]{1,64}")


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, request: GenerateRequest
) -> ReverieError:
    """The error for an HTTP response whose status isn't 200."""
    error = _error_of(body)
    reason = f"HTTP {status}, {_type_and_code(error)}"
    if status in (400, 413, 422, 500) and (overflow := _overflow(error, request)) is not None:
        return overflow
    if _MEMORY_FULL.search(_text_of(error)):
        return _memory_full()
    if isinstance(request.prompt, tuple) and NO_TOKEN.search(body):
        return RefusedByBackend("The model has no such token.", param="prompt")
    if status in (400, 413, 422, 500) and _UNRENDERABLE.search(_text_of(error) or _plain(body)):
        return _unrenderable()
    if status in (400, 413, 422):
        if _is_wrong_model(error):
            return _does_not_serve(reason)
        return _refused(error, request)
    if status == 429:
        return Overloaded(
            "The model's backend is at its limit. Try again later.",
            retry_after=_retry_after(headers, _BUSY_RETRY_AFTER),
        )
    if status == 503:
        return _unavailable(error, headers)
    if status in (408, 504):
        return BackendTimeout(
            "The model's backend did not answer in time. Try again.", reason=reason
        )
    if status in (401, 403):
        return BackendError(
            "The model's backend refused this gateway's credentials. Its operator's log says why.",
            reason=reason,
        )
    if status in (404, 405):
        return _does_not_serve(reason)
    return BackendError(
        "The model's backend failed. Try again.",
        reason=reason,
        said=(_text_of(error) or _plain(body))[:_MAX_SAID] if status == 500 else "",
    )


def _plain(body: bytes) -> str:
    return body.decode(errors="replace")


NO_TOKEN = re.compile(rb"_M_range_check|invalid tokens?|out of vocabulary|out of range")
"""What engines say of a token's id that their models don't have, some with a 500."""
_UNRENDERABLE = re.compile(
    # the template's own words, which differ by model
    r"roles? must|raise_exception|unknown role|expected last role|same number of function calls"
    # what renders it: Jinja in C++ (llama.cpp) and in Python, Go's templates (Ollama)
    r"|jinja|chat[ _]?template|for this template|template error|template: .*executing"
    r"|while executing \w+ at line|at row \d+, column \d+"
    r"|dict object' has no attribute|item pairs from a mapping|can only concatenate str"
    # what parses messages before that
    r"|tool call arguments|failed to parse messages|must contain either 'content'"
    r"|contains tool calls|assistant messages at the end|json\.exception|JSONDecodeError",
    re.IGNORECASE,
)
"""What engines say of messages that they can't make a prompt of, some with a 500. Any other 500 is
the engine's own failure."""


def _unrenderable() -> RefusedByBackend:
    return RefusedByBackend(
        "The model's chat template refuses these messages: for the order of their roles, for a "
        "role that it does not know, or for what one of them holds. Change the messages.",
        param="messages",
    )


_MEMORY_FULL = re.compile(
    r"context size has been exceeded|failed to find a (?:memory|kv) slot"
    r"|out of (?:kv cache|kv memory)|kv cache (?:pool )?is full",
    re.IGNORECASE,
)
"""What llama.cpp says to all requests whose tokens together came to more than its memory holds, and
what other engines say."""


def _memory_full() -> EngineMemoryFull:
    return EngineMemoryFull(
        "The requests that the model runs came to more tokens together than its engine's memory "
        "holds. Try again shortly.",
        retry_after=1.0,
    )


def _does_not_serve(reason: str) -> BackendError:
    return BackendError(
        "The model's backend does not serve this model. Its operator's log says why.", reason=reason
    )


def refusal_in_stream(error: Any, request: GenerateRequest, *, started: bool) -> ReverieError:
    """The error for one that the engine reported within a response of status 200."""
    if not started and (overflow := _overflow(error, request)) is not None:
        return overflow
    if not started and _UNRENDERABLE.search(_text_of(error)):
        return _unrenderable()
    if _MEMORY_FULL.search(_text_of(error)):
        return _memory_full()
    return BackendError(
        "The model's backend failed while it answered. Try again.",
        reason=f"error in the stream, {_type_and_code(error)}",
        said=_text_of(error)[:_MAX_SAID],
    )


def _type_and_code(error: Any) -> str:
    """An engine's error for the log: its type and code, none of its text."""
    if not isinstance(error, dict):
        return "no type given"
    known = {
        key: str(value)
        for key in ("type", "code")
        if isinstance(value := error.get(key), (str, int)) and _IDENTIFIER.fullmatch(str(value))
    }
    return ", ".join(f"{key} {value}" for key, value in known.items()) or "no type given"


def _error_of(body: bytes) -> Any:
    """The error object (or text) in a body, however it is wrapped; None if it isn't JSON."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(parsed, dict):
        for key in ("error", "detail"):
            if parsed.get(key):
                return parsed[key]
    return parsed


def _text_of(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("msg")
    return error if isinstance(error, str) else ""


def _code_of(error: Any) -> Any:
    return error.get("code") if isinstance(error, dict) else None


def _is_wrong_model(error: Any) -> bool:
    """True if the model's name is refused: the operator's mistake, not the client's."""
    return _code_of(error) == "model_not_found" or "pipeline configured with" in _text_of(error)


def _field_of(error: Any) -> str | None:
    """The request's field at fault, from an error object or from FastAPI's list of errors."""
    name = error.get("param") if isinstance(error, dict) else None
    if isinstance(error, list) and error and isinstance(error[0], dict):
        where = error[0].get("loc")
        name = where[1] if isinstance(where, list) and len(where) > 1 else None
    return name if isinstance(name, str) and name in GenerateRequest.__struct_fields__ else None


def _refused(error: Any, request: GenerateRequest) -> ReverieError:
    """The error for an invalid request: engines refuse schemas and tools most often."""
    if request.response_format is not None and request.response_format.get("type") != "text":
        return RefusedByBackend(
            "The engine refused the request as invalid; most likely its response_format has a "
            "part that this engine does not support. Send it without to find out.",
            param="response_format",
        )
    if request.tools:
        return RefusedByBackend(
            "The engine refused the request as invalid; most likely its tools have a part that "
            "this engine does not support. Send it without to find out.",
            param="tools",
        )
    field = _field_of(error)
    if field is not None:
        return RefusedByBackend(f"The engine refused the request's {field}.", param=field)
    return RefusedByBackend(
        "The engine refused the request as invalid. Check its messages and parameters."
    )


def _unavailable(error: Any, headers: Mapping[str, str]) -> ReverieError:
    if _code_of(error) == "model_loading" or "loading" in _text_of(error).lower():
        return ModelLoading(
            "The model is still loading. Try again shortly.",
            retry_after=_retry_after(headers, _LOADING_RETRY_AFTER),
        )
    return Overloaded(
        "The model's backend is overloaded. Try again later.",
        retry_after=_retry_after(headers, _BUSY_RETRY_AFTER),
    )


def _retry_after(headers: Mapping[str, str], default: float) -> float:
    """Seconds from 1 to 3600; the header holds seconds or a date (RFC 9110 §10.2.3)."""
    written = headers.get("Retry-After", "").strip()
    if not written:
        return default
    try:
        seconds = float(written)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(written).timestamp() - time.time()
        except ValueError:
            return default
    return min(max(seconds, 1.0), _MAX_RETRY_AFTER) if seconds == seconds else default


_OVERFLOW_TYPES = ("exceed_context_size_error", "context_length_exceeded")

_CONTEXT = re.compile(
    r"(?:context length|context size|context window|max(?:imum)? model len(?:gth)?"
    r"|maximum allowed \(|context holds|model's context of)"
    r"[^\d]{0,40}(\d{1,12})",
    re.IGNORECASE,
)
_OVERFLOW = re.compile(
    r"maximum context length|exceeds? the (?:available |model'?s? )?(?:maximum )?context"
    r"|longer than the (?:model'?s? context|maximum model)|context length exceeded"
    r"|input sequence length \(\d+\) exceeds maximum allowed",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"(\d{1,12}) (?:in the messages|tokens from the input)"
    r"|prompt contains (?:at least )?(\d{1,12})"
    r"|resulted in (\d{1,12}) tokens|prompt is (\d{1,12}) tokens long"
    r"|(?:prompt|input)[^\d]{0,20}\((?:length )?(\d{1,12})",
    re.IGNORECASE,
)
_TOTAL = re.compile(r"requested (?:a total of )?(\d{1,12}) tokens", re.IGNORECASE)


def _overflow(error: Any, request: GenerateRequest) -> ContextLengthExceeded | None:
    """The error for a prompt that doesn't fit the context; None if the engine says otherwise."""
    fields: dict[str, Any] = error if isinstance(error, dict) else {}
    text = _text_of(error)
    named = fields.get("type") in _OVERFLOW_TYPES or fields.get("code") in _OVERFLOW_TYPES
    if not named and not _OVERFLOW.search(text):
        return None
    prompt = _integer(fields.get("n_prompt_tokens"))
    context = _integer(fields.get("n_ctx"))
    if context is None and (found := _CONTEXT.search(text)):
        context = int(found[1])
    if prompt is None and (found := _PROMPT.search(text)):
        prompt = int(next(number for number in found.groups() if number))
    if prompt is None and (found := _TOTAL.search(text)):
        prompt = max(0, int(found[1]) - request.max_tokens)
    fits = prompt is not None and context is not None and prompt < context
    return ContextLengthExceeded(
        prompt,
        context,
        max_tokens=request.max_tokens if fits else None,
        param="messages" if request.prompt is None else "prompt",
    )


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
