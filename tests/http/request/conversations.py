"""Conversations as ``GenerateRequest`` has them, for dialects to carry there and back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

_TEXT = st.text(min_size=1, max_size=20)
_IDS = st.text("abc123_-", min_size=1, max_size=12)
_ARGUMENTS = st.dictionaries(_TEXT, st.integers() | _TEXT | st.none(), max_size=3)


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _image(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


_PARTS = st.lists(
    _TEXT.map(_text) | st.sampled_from(["AAAA", "iVBO"]).map(_image), min_size=1, max_size=3
).filter(lambda parts: any(part["type"] == "image_url" for part in parts))
USERS = (_TEXT | _PARTS).map(_user)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What an assistant says and calls, and what its tools answer."""
    message: dict[str, Any] = {"role": "assistant"}
    names = draw(st.lists(_IDS, max_size=2, unique=True))
    message["content"] = draw(st.none() | _TEXT if names else _TEXT)
    if names:
        message["tool_calls"] = [
            {
                "id": f"call_{name}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(draw(_ARGUMENTS))},
            }
            for name in names
        ]
    if draw(st.booleans()):
        message["reasoning_content"] = draw(_TEXT)
    results = [
        {"role": "tool", "tool_call_id": f"call_{name}", "content": draw(_TEXT)} for name in names
    ]
    return [message, *results]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A system's text or none, then turns of a user and an assistant, and a user's last one."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(_TEXT)})
    for _ in range(draw(st.integers(0, 2))):
        messages.append(draw(USERS))
        messages += draw(answers())
    return [*messages, draw(USERS)]
