"""What is wrong with a request's body → one error.

Rule 1: an error names the field (``param``, a dotted path) and what would be accepted; it never
repeats a value, since prompts are private.

Rule 2: the code is ``unsupported_parameter`` only if every mistake is of that sort; one plain
mistake makes it ``invalid_request``.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from pydantic import ValidationError

from reverie.errors import InvalidRequest, UnsupportedParameter
from reverie.http.request.schema import UNSUPPORTED
from reverie.http.request.validation import Mistake, error_text

_MAX_DETAILS = 20
_MAX_NAME = 100
_UNSUPPORTED_TYPES = frozenset({UNSUPPORTED, "extra_forbidden"})

_TAG = re.compile(r"<\w+>", re.ASCII)
_BOM = b"\xef\xbb\xbf"
"""A byte order mark, which some editors and PowerShell write in front."""
_decode = msgspec.json.Decoder().decode


def decode_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        body = _decode(raw.removeprefix(_BOM))
    except UnicodeDecodeError:
        raise not_json("it is not UTF-8") from None
    except (msgspec.DecodeError, RecursionError, OverflowError) as error:
        deep = isinstance(error, RecursionError)
        raise not_json("it is nested too deeply" if deep else str(error)) from None
    if not isinstance(body, dict):
        message = "The request body should be a JSON object."
        raise InvalidRequest(
            message, details=[{"loc": ["body"], "msg": message, "type": "model_attributes_type"}]
        )
    return body


def not_json(reason: str) -> InvalidRequest:
    """The error for a body that can't be read."""
    message = f"The request body can't be read as JSON: {reason}."
    return InvalidRequest(
        message, details=[{"loc": ["body"], "msg": message, "type": "json_invalid"}]
    )


def mistakes_of(error: ValidationError) -> list[Mistake]:
    """What pydantic found, in our words."""
    mistakes: list[Mistake] = []
    for one in error.errors(include_url=False, include_input=False):
        loc = [part for part in one["loc"] if part != "[key]" and not _is_tag(part)]
        at = one.get("ctx", {}).get("at")
        if at is not None:
            loc.append(at)
        mistakes.append(Mistake(tuple(loc), error_text(one), one["type"]))
    return mistakes


def _is_tag(part: int | str) -> bool:
    """True for the tags of unions, which pydantic puts into the path of a mistake."""
    return isinstance(part, str) and _TAG.fullmatch(part) is not None


def error_of(mistakes: list[Mistake]) -> InvalidRequest:
    """One error that lists the mistakes, of which there is at least one."""
    first = mistakes[0]
    details = [
        {"loc": ["body", *_clipped(mistake.loc)], "msg": mistake.message, "type": mistake.type}
        for mistake in mistakes[:_MAX_DETAILS]
    ]
    param = ".".join(str(part) for part in _clipped(first.loc))
    message = f"{param}: {first.message}." if param else f"{first.message}."
    more = len(mistakes) - 1
    if more:
        message += f" ({more} more {'mistake' if more == 1 else 'mistakes'}.)"
    kind = InvalidRequest
    if all(mistake.type in _UNSUPPORTED_TYPES for mistake in mistakes):
        kind = UnsupportedParameter
    return kind(message, param=param or None, details=details)


def _clipped(loc: tuple[int | str, ...]) -> list[int | str]:
    """A field's path, with names clipped: the client chose them, and they may be huge."""
    return [part[:_MAX_NAME] if isinstance(part, str) else part for part in loc]
