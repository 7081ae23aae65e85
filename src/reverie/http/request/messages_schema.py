"""The wire shape of a request in Anthropic's dialect, ``POST /v1/messages``.

Source: the types of anthropic-sdk-python 0.121.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, StrictBool, Tag

from reverie.http.request.lenient import Lenient, Other
from reverie.http.request.schema import (
    LAX,
    MAX_MESSAGES,
    base64,
    image_url,
    tag_by_type,
    union_by_form,
)

_MAX_INT32 = 2**31 - 1
_MAX_NAME = 200


# Blocks -----------------------------------------------------------------------------------


class TextBlock(Lenient):
    type: Literal["text"]
    text: str


class Base64Source(Lenient):
    type: Literal["base64"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: Annotated[str, Field(min_length=1), AfterValidator(base64)]


class URLSource(Lenient):
    type: Literal["url"]
    url: Annotated[str, AfterValidator(image_url)]


class ImageBlock(Lenient):
    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag("<base64>")] | Annotated[URLSource, Tag("<url>")],
        Discriminator(tag_by_type(frozenset({"url"}), other="<base64>")),
    ]


class ToolUseBlock(Lenient):
    type: Literal["tool_use"]
    id: str = Field(min_length=1, max_length=_MAX_NAME)
    name: str = Field(min_length=1, max_length=_MAX_NAME)
    input: dict[str, Any]


class ThinkingBlock(Lenient):
    type: Literal["thinking"]
    thinking: str
    signature: str = ""


_PARTS = frozenset({"text", "image"})
_BLOCKS = _PARTS | {"tool_use", "tool_result", "thinking"}
"""Other blocks are hidden reasoning, documents, searches."""

_Part: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[Other, Tag("<other>")],
    Discriminator(tag_by_type(_PARTS)),
]


_Parts: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[str, Tag("<string>")] | Annotated[list[_Part], Field(fail_fast=True), Tag("<array>")],
    "a string or a list of blocks",
)


class ToolResultBlock(Lenient):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1, max_length=_MAX_NAME)
    content: _Parts | None = None
    is_error: StrictBool | None = None


Block: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[Other, Tag("<other>")],
    Discriminator(tag_by_type(_BLOCKS)),
]
Content: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[str, Tag("<string>")] | Annotated[list[Block], Field(fail_fast=True), Tag("<array>")],
    "a string or a list of blocks",
)
System: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[str, Tag("<string>")]
    | Annotated[list[TextBlock], Field(fail_fast=True), Tag("<array>")],
    "a string or a list of text blocks",
)


class Message(Lenient):
    role: Literal["user", "assistant", "system"]
    content: Content


# Tools and the request --------------------------------------------------------------------


class Tool(Lenient):
    """A tool of the client's own; those that Anthropic's servers run have another ``type``."""

    name: str = Field(min_length=1, max_length=128)
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: StrictBool | None = None

    @property
    def without_effect(self) -> str | None:
        return str(self.type) if self.input_schema is None else None


class ToolChoice(Lenient):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: StrictBool | None = None


class Thinking(Lenient):
    type: Literal["enabled", "adaptive", "disabled"]


class OutputFormat(Lenient):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Lenient):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessagesRequest(Lenient):
    """A request for an answer; ``max_tokens`` is absent where only the prompt is counted."""

    model: str = Field(default="", max_length=200)
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, le=_MAX_INT32), LAX] | None = None
    system: System | None = None
    stop_sequences: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=1000)]],
            Field(max_length=16, fail_fast=True),
        ]
        | None
    ) = None
    stream: StrictBool | None = None
    temperature: Annotated[float, Field(ge=0, le=1), LAX] | None = None
    top_p: Annotated[float, Field(gt=0, le=1), LAX] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MAX_INT32), LAX] | None = None
    tools: Annotated[list[Tool], Field(max_length=512, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    metadata: Any = None
    """Accepted, no effect on the text."""
    service_tier: Any = None
    """Accepted, no effect on the text."""
    cache_control: Any = None
    """Accepted, no effect on the text."""
