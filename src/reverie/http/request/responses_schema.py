"""The wire shape of a request in OpenAI's newer dialect, ``POST /v1/responses``.

Source: the types of openai-python 3.57, ``types/responses``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StrictBool, Tag
from pydantic_core import PydanticCustomError

from reverie.http.request.lenient import Lenient, Other
from reverie.http.request.schema import (
    LAX,
    MAX_MESSAGES,
    UNSUPPORTED,
    Name,
    image_url,
    tag_by_type,
    union_by_form,
)

_MAX_INT32 = 2**31 - 1
_MAX_NAME = 200


# Parts of messages ------------------------------------------------------------------------


class TextPart(Lenient):
    """Text of either side; what an answer carried comes back as ``output_text``."""

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"annotations", "logprobs", "parsed"})

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


class RefusalPart(Lenient):
    type: Literal["refusal"]
    refusal: str


class ImagePart(Lenient):
    type: Literal["input_image"]
    image_url: Annotated[str, AfterValidator(image_url)]
    detail: Literal["auto", "low", "high", "original"] | None = None


_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_PARTS = _TEXTS | {"refusal", "input_image"}


def _known_part(value: Any) -> Any:
    """Tell files and sounds, which no model would see, from malformed parts."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in _PARTS:
        raise PydanticCustomError(
            UNSUPPORTED, "Only parts with text, a refusal or an image are supported", {"at": "type"}
        )
    if isinstance(value, dict) and kind == "input_image" and value.get("file_id") is not None:
        raise PydanticCustomError(
            UNSUPPORTED, "Files are not kept here: send the image_url", {"at": "file_id"}
        )
    return value


Content: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[str, Tag("<string>")]
    | Annotated[
        list[
            Annotated[
                Annotated[TextPart, Tag("<text>")]
                | Annotated[RefusalPart, Tag("<refusal>")]
                | Annotated[ImagePart, Tag("<input_image>")],
                Discriminator(tag_by_type(frozenset({"refusal", "input_image"}), other="<text>")),
                BeforeValidator(_known_part),
            ]
        ],
        Field(fail_fast=True),
        Tag("<array>"),
    ],
    "a string or a list of parts",
)


# Items ------------------------------------------------------------------------------------


class Item(Lenient):
    """What items of any kind carry when they come back from an answer."""

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {"id", "status", "phase", "encrypted_content", "parsed_arguments", "parsed", "namespace"}
    )


class MessageItem(Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(Item):
    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=_MAX_NAME)
    name: str = Field(min_length=1, max_length=_MAX_NAME)
    arguments: str = ""


class CallOutputItem(Item):
    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=_MAX_NAME)
    output: Content


class ReasoningItem(Item):
    type: Literal["reasoning"]
    summary: Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    content: Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    """The whole of it; clients that show summaries alone send none."""


_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})


def _known_item(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "item_reference":
        raise PydanticCustomError(
            UNSUPPORTED, "No items are kept here: send the item itself", {"at": "type"}
        )
    return value


_tag_of_item: Callable[[Any], str] = tag_by_type(_ITEMS)


def _item_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "<message>" if kind is None else _tag_of_item(value)


Input: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[str, Tag("<string>")]
    | Annotated[
        list[
            Annotated[
                Annotated[MessageItem, Tag("<message>")]
                | Annotated[CallItem, Tag("<function_call>")]
                | Annotated[CallOutputItem, Tag("<function_call_output>")]
                | Annotated[ReasoningItem, Tag("<reasoning>")]
                | Annotated[Other, Tag("<other>")],
                Discriminator(_item_tag),
                BeforeValidator(_known_item),
            ]
        ],
        Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
        Tag("<array>"),
    ],
    "a string or a list of items",
)


# Tools and formats ------------------------------------------------------------------------


class FunctionTool(Lenient):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


Tool: TypeAlias = Annotated[
    Annotated[FunctionTool, Tag("<function>")] | Annotated[Other, Tag("<other>")],
    Discriminator(tag_by_type(frozenset({"function"}))),
]


class NamedTool(Lenient):
    type: Literal["function"]
    name: Name


class AllowedTools(Lenient):
    """Those of the tools that may be called this time."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128, fail_fast=True)]


def _known_choice(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in ("function", "allowed_tools"):
        raise PydanticCustomError(
            UNSUPPORTED, "Only functions can be called: 'function' or 'allowed_tools'"
        )
    return value


ToolChoice: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[Literal["none", "auto", "required"], Tag("<string>")]
    | Annotated[
        Annotated[
            Annotated[NamedTool, Tag("<function>")] | Annotated[AllowedTools, Tag("<allowed>")],
            Discriminator(tag_by_type(frozenset({"function"}), other="<allowed>")),
            BeforeValidator(_known_choice),
        ],
        Tag("<object>"),
    ],
    "'none', 'auto', 'required' or an object that names functions",
)


class TextFormat(Lenient):
    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    # "schema" is a method of pydantic's own models
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    """Required where ``type`` is ``json_schema``, as is the name."""
    strict: StrictBool | None = None
    description: str | None = None


class TextOptions(Lenient):
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset({"verbosity"})

    format: TextFormat | None = None


class Reasoning(Lenient):
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {"summary", "generate_summary", "context", "mode"}
    )

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


# The request ------------------------------------------------------------------------------


def _absent(value: Any) -> Any:
    if value is not None:
        raise PydanticCustomError(UNSUPPORTED, "No state is kept here: send the whole conversation")
    return value


def _not_in_background(value: bool | None) -> bool | None:
    if value:
        raise PydanticCustomError(
            UNSUPPORTED, "Answers come at once: send stream and store, and resume what was dropped"
        )
    return value


_NoState: TypeAlias = Annotated[Any, AfterValidator(_absent)]


class ResponsesRequest(Lenient):
    NO_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {
            "client_metadata",
            "include",
            "metadata",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "stream_options",
            "user",
        }
    )

    model: str = Field(default="", max_length=200)
    input: Input | None = None
    """The conversation; a request for an answer needs it, or ``instructions``."""
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=_MAX_INT32), LAX] | None = None
    temperature: Annotated[float, Field(ge=0, le=2), LAX] | None = None
    top_p: Annotated[float, Field(gt=0, le=1), LAX] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), LAX] | None = None
    include: Annotated[list[str], Field(max_length=32, fail_fast=True)] | None = None
    stream: StrictBool | None = None
    store: StrictBool | None = None
    """True keeps the answer for a day, so that it can be asked for by its id."""
    tools: Annotated[list[Tool], Field(max_length=512, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    background: Annotated[StrictBool | None, AfterValidator(_not_in_background)] = None
    previous_response_id: _NoState = None
    conversation: _NoState = None
    prompt: _NoState = None
