"""What has been said in one chat, and what the next request is made of. Knows no terminal."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

_MAX_IMAGE = 7 * 1024 * 1024
"""Bytes. In base64 it is a third more, and a request's body has 10 MiB by default."""
_IMAGES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"BM": "bmp",
}


class WrongInput(Exception):
    """What the user asked for can't be done. The message says why."""


class Conversation(Struct):
    """The messages and settings of one chat."""

    model: str | None = None
    """None: the server's default."""
    system: str | None = None
    messages: list[dict[str, Any]] = []
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of each request, such as ``temperature``."""
    images: list[str] = []
    """``data:`` URLs that go with the next question."""

    def ask(self, text: str) -> dict[str, Any]:
        """Add a question, and return the request for its answer."""
        content: Any = text
        if self.images:
            pictures = [{"type": "image_url", "image_url": {"url": url}} for url in self.images]
            content = [{"type": "text", "text": text}, *pictures]
        self.images = []
        self.messages.append({"role": "user", "content": content})
        told = [{"role": "system", "content": self.system}] if self.system else []
        body = {**self.settings, "messages": [*told, *self.messages]}
        return body if self.model is None else {**body, "model": self.model}

    def answered(self, text: str) -> None:
        """Add the answer, or what there is of it. Without any, the question is taken back."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()

    def begin_anew(self) -> None:
        """Forget what was said. The system prompt and the settings stay."""
        self.messages = []
        self.images = []

    def change(self, name: str, written: str) -> None:
        """Set a field of the requests to come; an empty value takes it back.

        Raises:
            WrongInput: there is no such field, or it can't have this value.
        """
        if name not in SETTINGS:
            raise WrongInput(f"there is no {name}; there are {', '.join(SETTINGS)}")
        if not written:
            self.settings.pop(name, None)
            return
        try:
            self.settings[name] = SETTINGS[name](written)
        except ValueError:
            kind = "whole number" if SETTINGS[name] is int else "number"
            raise WrongInput(f"{name}: write a {kind}") from None

    def attach(self, file: Path) -> None:
        """Send an image with the next question.

        Raises:
            WrongInput: it can't be read, is too large, or is no image.
        """
        try:
            with file.expanduser().open("rb") as reading:
                data = reading.read(_MAX_IMAGE + 1)
        except (OSError, RuntimeError) as error:
            raise WrongInput(f"{file} can't be read: {_reason(error)}") from None
        if len(data) > _MAX_IMAGE:
            raise WrongInput(f"{file} has more than {_MAX_IMAGE // 1024 // 1024} MiB")
        kind = _kind_of(data)
        if kind is None:
            raise WrongInput(f"{file} is no PNG, JPEG, WebP, GIF or BMP")
        self.images.append(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")

    def save(self, file: Path) -> None:
        """Write the conversation to a new file: as JSON if its name ends so, else as Markdown.

        Raises:
            WrongInput: there is one already, or it can't be written.
        """
        text = self._as_json() if file.suffix == ".json" else self._as_markdown()
        try:
            with file.expanduser().open("x", encoding="utf-8") as writing:
                writing.write(text)
        except FileExistsError:
            raise WrongInput(f"{file} is there already; give another name") from None
        except (OSError, RuntimeError) as error:
            raise WrongInput(f"{file} can't be written: {_reason(error)}") from None

    def _as_json(self) -> str:
        told = [{"role": "system", "content": self.system}] if self.system else []
        whole = {"model": self.model, **self.settings, "messages": [*told, *self.messages]}
        return msgspec.json.format(msgspec.json.encode(whole)).decode() + "\n"

    def _as_markdown(self) -> str:
        parts = [f"## System\n\n{self.system}\n"] if self.system else []
        for message in self.messages:
            content = message["content"]
            if isinstance(content, list):
                content = f"{content[0]['text']}\n\n(with {len(content) - 1} image(s))"
            who = "You" if message["role"] == "user" else self.model or "Model"
            parts.append(f"## {who}\n\n{content}\n")
        return "\n".join(parts)


def _text(written: str) -> str:
    return written


def _number(written: str) -> float:
    """Read a number, which JSON could hold."""
    value = float(written)
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": _number,
    "max_tokens": int,
    "top_p": _number,
    "top_k": int,
    "min_p": _number,
    "seed": int,
    "stop": _text,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "repetition_penalty": _number,
    "reasoning_effort": _text,
}
"""The fields that can be set, and how each is read. Their bounds are the server's to check."""


def _kind_of(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for begin, kind in _IMAGES.items() if data.startswith(begin)), None)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
