"""Finds a llama.cpp server that goes on with an assistant's message at the end unasked.

Every ``llama-server`` does, unless it is started with ``--no-prefill-assistant``; no field of a
request stops it, and nothing but a rendered prompt shows it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from reverie.backends.transport import Transport
from reverie.errors import BackendError, UnsupportedParameter
from reverie.request import GenerateRequest

_PATH = "/apply-template"
_MAX_BYTES = 64 * 1024
_BEGUN = "Reverie-began-this"
_QUESTION = msgspec.json.encode(
    {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": _BEGUN},
        ]
    }
)


def ends_with_assistant(request: GenerateRequest) -> bool:
    """True if the assistant has the last word, and nothing asks to go on with that."""
    if request.prompt is not None:
        return False
    goes_on = request.continue_final_message or bool(request.answer_so_far)
    return not goes_on and request.messages[-1]["role"] == "assistant"


async def refuse_prefill(transport: Transport, deadline: float) -> None:
    """Refuse a request that ``ends_with_assistant`` where it would be gone on with.

    Raises:
        UnsupportedParameter: the server does that.
    """
    try:
        async with transport.post(_PATH, _QUESTION, deadline) as response:
            body = await response.read_all(_MAX_BYTES, deadline)
            if response.status != 200 or not _is_open(body):
                return
    except BackendError:  # the request itself will show what is wrong
        return
    raise UnsupportedParameter(
        "This model's engine (llamacpp) would go on with the assistant's message at the end. Set "
        "continue_final_message to true, or end with another message. The engine's operator can "
        "start it with --no-prefill-assistant.",
        param="messages",
    )


def _is_open(body: bytes) -> bool:
    """True if the prompt in llama.cpp's answer ends within the assistant's message."""
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    prompt = answer.get("prompt") if isinstance(answer, dict) else None
    return isinstance(prompt, str) and prompt.endswith(_BEGUN)
