"""Livepeer's dialect, as a backend speaks it: requests to another ``/llm`` server.

That is an ai-runner, a Livepeer gateway, or a Reverie. An ai-runner ignores fields that it doesn't
know, so only its seven are ever sent (``LLMRequest`` in its ``routes/utils.py``), and always all
seven, since a gateway refuses a request that lacks one.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from reverie.errors import UnsupportedParameter
from reverie.events import Event, Finish, Usage
from reverie.request import GenerateRequest

PATH = "llm"
"""The generation route, below the base URL."""

_TOP_K_OFF = -1
"""Older vLLMs, which an ai-runner may use, refuse 0."""
_ROLES = ("system", "user", "assistant")
_UNSUPPORTED_IN_MESSAGES = ("name", "tool_calls", "tool_call_id")

_encode = msgspec.json.Encoder().encode


def base_url(url: str) -> str:
    """The server's base URL; ``url`` may end in ``/llm`` or not."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.removesuffix(f"/{PATH}")))


def check(request: GenerateRequest) -> None:
    """Refuse what the dialect can't express.

    An assistant's ``reasoning_content`` isn't refused but left out, as for OpenAI's own server:
    clients send it back with every answer.

    Raises:
        UnsupportedParameter: naming the field.
    """
    for field, asked in (
        ("prompt", request.prompt is not None),
        ("min_p", request.min_p > 0),
        ("stop", bool(request.stop)),
        ("seed", request.seed is not None),
        ("presence_penalty", bool(request.presence_penalty)),
        ("frequency_penalty", bool(request.frequency_penalty)),
        ("logit_bias", bool(request.logit_bias)),
        ("repetition_penalty", request.repetition_penalty != 1),
        ("min_tokens", request.min_tokens > 0),
        ("ignore_eos", request.ignore_eos),
        ("reasoning_effort", request.reasoning_effort is not None),
        ("chat_template_kwargs", request.chat_template_kwargs is not None),
        ("logprobs", request.logprobs),
        ("response_format", (request.response_format or {}).get("type", "text") != "text"),
        ("tools", bool(request.tools)),
    ):
        if asked:
            raise _unsupported(field, field)
    for index, message in enumerate(request.messages):
        if message["role"] not in _ROLES:
            raise _unsupported(f"messages of the role {message['role']}", f"messages.{index}.role")
        for field in _UNSUPPORTED_IN_MESSAGES:
            if message.get(field):
                raise _unsupported(f"{field} in messages", f"messages.{index}.{field}")


def encode(request: GenerateRequest, model: str) -> bytes:
    """The JSON body. The request has passed ``check``.

    Args:
        model: the model's name on that server.
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
        "top_k": request.top_k if request.top_k > 0 else _TOP_K_OFF,
        "stream": True,
    }
    return _encode(body)


def correct_finish_reason(events: list[Event], deltas: int, max_tokens: int) -> list[Event]:
    """Correct the finish reason of an ai-runner, which says ``stop`` whatever ended the answer.

    A model that stops by itself ends with a token without text, and there are no stop strings in
    this dialect. So an answer of ``max_tokens`` deltas, each of one token or more, reached that
    limit.

    Args:
        events: the last events of the answer.
        deltas: how many deltas arrived in all.
    """
    usage = next((event for event in events if isinstance(event, Usage)), None)
    if deltas < max_tokens or usage is None or usage.completion_tokens < max_tokens:
        return events
    return [Finish("length") if event == Finish("stop") else event for event in events]


def _unsupported(what: str, param: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"This model's engine (livepeer) does not support {what}.", param=param
    )
