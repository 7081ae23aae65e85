"""Answers that the encoders write by themselves, without a server around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from reverie.events import Delta, Finish, Usage
from reverie.http.dialects import (
    COMPLETIONS,
    LIVEPEER,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    OPENAI,
    RESPONSES,
)
from reverie.http.dialects.base import Dialect, Encoder
from tests.http.conformance.readers.chat import ChatReader
from tests.http.conformance.readers.completions import CompletionsReader
from tests.http.conformance.readers.messages import MessagesReader
from tests.http.conformance.readers.ollama import OllamaReader
from tests.http.conformance.readers.reading import Reader
from tests.http.conformance.readers.responses import ResponsesReader

USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
Batches = Sequence[Sequence[Delta]]


class Written(NamedTuple):
    """A dialect, with the request that its answers are for."""

    name: str
    dialect: Dialect
    body: dict[str, object]
    reader: Callable[[], Reader]

    @property
    def encoder(self) -> Encoder:
        asked = self.dialect.parse(json.dumps({"model": "m", **self.body}).encode())
        return self.dialect.encoder(asked, id="resp_7", model="m", created=7)

    def stream(self, batches: Batches, finish: Finish) -> bytes:
        """A whole stream."""
        writing = self.encoder
        pieces = [writing.batch(batch) for batch in batches]
        return b"".join(pieces) + writing.end(finish, USAGE)


_CHAT: dict[str, object] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
_PLAIN: dict[str, object] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
WRITTEN = (
    Written("llm", LIVEPEER, _CHAT, lambda: ChatReader(livepeer=True)),
    Written("chat", OPENAI, _CHAT, ChatReader),
    Written(
        "chat-no-usage",
        OPENAI,
        {"messages": _CHAT["messages"], "stream": True},
        lambda: ChatReader(usage=False),
    ),
    Written("messages", MESSAGES, _PLAIN, MessagesReader),
    Written("responses", RESPONSES, {"input": "Hi"}, ResponsesReader),
    Written(
        "responses-summary",
        RESPONSES,
        {"input": "Hi", "reasoning": {"summary": "auto"}},
        ResponsesReader,
    ),
    Written(
        "ollama-chat",
        OLLAMA_CHAT,
        {"messages": _CHAT["messages"]},
        lambda: OllamaReader(chat=True),
    ),
    Written("ollama-generate", OLLAMA_GENERATE, {"prompt": "Hi"}, lambda: OllamaReader(chat=False)),
    Written(
        "completions",
        COMPLETIONS,
        {
            "prompt": "Hi",
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        CompletionsReader,
    ),
)
EVERY_DIALECT = pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written.name)
