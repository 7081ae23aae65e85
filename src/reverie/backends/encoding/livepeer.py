"""Livepeer's dialect towards a backend: another ``/llm`` server.

That is an ai-runner, a Livepeer gateway, or a Reverie. The smallest of them, the ai-runner, decides
what is sent: it ignores every field that it doesn't know, so none but its seven ever goes out
(``LLMRequest`` in its ``routes/utils.py``), and all of them do, since a gateway refuses a request
that lacks one.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from reverie.errors import UnsupportedParameter
from reverie.events import Event, Finish, Usage
from reverie.request import GenerateRequest

PATH = "llm"
"""Where it generates, below its base URL."""

_OFF = -1
"""``top_k`` that is off. vLLM, which runs below an ai-runner, refused 0 for long."""
_ROLES = ("system", "user", "assistant")
_UNSENT = ("name", "tool_calls", "tool_call_id")

_encode = msgspec.json.Encoder().encode


def base(url: str) -> str:
    """The base URL of a server, given with or without ``/llm`` at its end."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.removesuffix(f"/{PATH}")))


def check(request: GenerateRequest) -> None:
    """Refuse what the dialect has no words for.

    An assistant's ``reasoning_content`` is no such thing: it is left out, as on OpenAI's own
    server, since clients send it back with every answer.

    Raises:
        UnsupportedParameter: naming the field.
    """
    for field, asked in (
        ("min_p", request.min_p > 0),
        ("stop", bool(request.stop)),
        ("seed", request.seed is not None),
        ("presence_penalty", bool(request.presence_penalty)),
        ("frequency_penalty", bool(request.frequency_penalty)),
        ("logit_bias", bool(request.logit_bias)),
        ("logprobs", request.logprobs),
        ("response_format", (request.response_format or {}).get("type", "text") != "text"),
        ("tools", bool(request.tools)),
    ):
        if asked:
            raise _unsupported(field, field)
    for index, message in enumerate(request.messages):
        if message["role"] not in _ROLES:
            raise _unsupported(f"messages of the role {message['role']}", f"messages.{index}.role")
        for field in _UNSENT:
            if message.get(field):
                raise _unsupported(f"{field} in messages", f"messages.{index}.{field}")


def encode(request: GenerateRequest, model: str) -> bytes:
    """The JSON body. The request has passed ``check``.

    Args:
        model: the model's name there.
    """
    body: dict[str, Any] = {
        "messages": [
            {"role": message["role"], "content": message["content"] or ""}
            for message in request.messages
        ],
        "model": model,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "top_p": request.top_p,
        "top_k": request.top_k if request.top_k > 0 else _OFF,
        "stream": True,
    }
    return _encode(body)


def finish_truthfully(events: list[Event], pieces: int, max_tokens: int) -> list[Event]:
    """Mend the finish reason of an ai-runner, which says ``stop`` whatever ended the answer.

    A model's own end is a token without text, and no stop string can be asked for. So an answer of
    ``max_tokens`` pieces of text, of a token or more each, was cut by that limit.

    Args:
        events: the answer's last ones.
        pieces: of text, that arrived.
    """
    counted = next((event for event in events if isinstance(event, Usage)), None)
    if pieces < max_tokens or counted is None or counted.completion_tokens < max_tokens:
        return events
    return [Finish("length") if event == Finish("stop") else event for event in events]


def _unsupported(what: str, param: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"This model's engine (livepeer) does not support {what}.", param=param
    )
