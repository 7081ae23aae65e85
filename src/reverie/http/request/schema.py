"""The wire shape of a request: every field that it may carry, its type and its bounds.

These models refuse what ``docs/protocol.md`` does not list; ``body`` turns their complaints into
errors, and ``http.operations.openapi`` publishes them.

Rule: a list stops at its first bad item, and an object's size is bounded before its fields are
looked at, so that a hostile body can't buy a mountain of error records.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StrictBool,
    Tag,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported_parameter"
"""The type of a mistake about something that is valid in OpenAI's API, but not honoured here."""

_MAX_FIELDS = 64
_MAX_URL = 8192
_IMAGE_DATA = re.compile(r"data:image/(png|jpe?g|webp|gif|bmp);base64", re.ASCII | re.IGNORECASE)
_MAX_INT32 = 2**31 - 1
_NUMBER = re.compile(r"\s*-?(0|[1-9]\d{0,30})(\.\d{1,30})?([eE][+-]?\d{1,3})?\s*", re.ASCII)


# Scalars ----------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """Accept JSON numbers and strings that hold one; no booleans, which are ints in Python."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number, not a boolean")
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise PydanticCustomError("number_parsing", "Input should be a number")
        return float(value) if any(mark in value for mark in ".eE") else int(value)
    return value


def _form(value: Any) -> str | None:
    """The tag of the union member that a value's JSON type chooses."""
    if isinstance(value, str):
        return "<string>"
    if isinstance(value, list):
        return "<array>"
    return "<object>" if isinstance(value, dict) else None


LAX = BeforeValidator(_number)
"""Stands after the bounds in an annotation, so that OpenAPI describes a plain number."""

_NAME = "^[a-zA-Z0-9_-]{1,64}$"
_TOKEN_ID = "^(0|[1-9][0-9]{0,9})$"
PATTERNS = {
    _NAME: "Input should be 1 to 64 characters out of a-z, A-Z, 0-9, '_' and '-'",
    _TOKEN_ID: "This name should be a token's id: up to ten digits, with no 0 in front",
}
"""What each pattern accepts, in words."""
Name = Annotated[str, Field(pattern=_NAME)]


def union_by_form(members: Any, expected: str) -> Any:
    """A union of members with the tags of ``_form``."""
    return Annotated[
        members,
        Discriminator(
            _form,
            custom_error_type="wrong_type",
            custom_error_message=f"Input should be {expected}",
        ),
    ]


def tag_by_type(known: frozenset[str], other: str = "<other>") -> Callable[[Any], str]:
    """Tells the tag of a member of a union by its ``type``; all that aren't known share one."""

    def tag(value: Any) -> str:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return f"<{kind}>" if isinstance(kind, str) and kind in known else other

    return tag


HINTS = frozenset({"cache_control", "provider_specific_fields"})
"""Fields that say nothing to a model, and may be in any object: Anthropic's hint about caching, and
what LiteLLM adds to answers, which come back with it."""


class Wire(BaseModel):
    """A JSON object that a client sends. A field that is null counts as absent, by any name."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MAX_FIELDS:
            raise PydanticCustomError(
                "too_many_fields", f"Object should have {_MAX_FIELDS} or fewer fields"
            )
        if isinstance(value, dict) and (None in value.values() or not HINTS.isdisjoint(value)):
            return {k: v for k, v in value.items() if v is not None and k not in HINTS}
        return value


# Messages ---------------------------------------------------------------------------------


_PARTS = frozenset({"text", "image_url", "refusal"})


def _known_part(value: Any) -> Any:
    """Tell other kinds of parts (sounds, files) from malformed ones."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in _PARTS:
        raise PydanticCustomError(
            UNSUPPORTED, "Only parts of type 'text' and 'image_url' are supported", {"at": "type"}
        )
    return value


class LLMTextPart(Wire):
    type: Literal["text"]
    text: str


def image_url(value: str) -> str:
    """Check the URL of an image. What a server would be asked to fetch is not looked at further."""
    if value[:7].lower() == "http://" or value[:8].lower() == "https://":
        if len(value) > _MAX_URL:
            raise PydanticCustomError(
                "value_error", f"URL should have {_MAX_URL} or fewer characters"
            )
        return value
    head, _, data = value.partition(",")
    if not data or not _IMAGE_DATA.fullmatch(head):
        raise PydanticCustomError(
            "value_error",
            "Input should be an image as a data: URL (data:image/png;base64,...; png, jpeg, webp, "
            "gif or bmp), or an http(s) URL",
        )
    base64(data)
    return value if head.islower() else f"{head.lower()},{data}"


def base64(value: str) -> str:
    """Check an image's data."""
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise PydanticCustomError("value_error", "This should be an image in base64") from None
    return value


class LLMImageURL(Wire):
    url: Annotated[str, AfterValidator(image_url)]
    """The image itself as a `data:` URL, or, where the operator allows it, an http(s) URL."""
    detail: Literal["auto", "low", "high"] | None = None


def _as_object(value: Any) -> Any:
    """Accept the URL alone, too, as vLLM does."""
    return {"url": value} if isinstance(value, str) else value


class LLMImagePart(Wire):
    type: Literal["image_url"]
    image_url: Annotated[LLMImageURL, BeforeValidator(_as_object)]


class LLMRefusalPart(Wire):
    type: Literal["refusal"]
    refusal: str


def _as_text(value: Any) -> Any:
    """Accept arguments as the object itself, too."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


class LLMFunctionCall(Wire):
    name: str = Field(min_length=1, max_length=200)
    arguments: Annotated[
        str, BeforeValidator(_as_text), Field(json_schema_extra={"type": ["string", "object"]})
    ] = ""
    """The arguments as JSON text, as the model wrote it."""
    parsed_arguments: SkipJsonSchema[Any] = None


class LLMToolCall(Wire):
    id: str = Field(max_length=200)
    type: Literal["function"] = "function"
    function: LLMFunctionCall
    index: SkipJsonSchema[Any] = None


Content: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[str, Tag("<string>")]
    | Annotated[
        list[
            Annotated[
                Annotated[LLMTextPart, Tag("<text>")]
                | Annotated[LLMImagePart, Tag("<image_url>")]
                | Annotated[LLMRefusalPart, Tag("<refusal>")],
                Discriminator(tag_by_type(frozenset({"refusal", "image_url"}), other="<text>")),
                BeforeValidator(_known_part),
            ]
        ],
        Field(fail_fast=True),
        Tag("<array>"),
    ],
    "a string or a list of parts",
)


_TEXT: dict[str, JsonValue] = {
    "properties": {"content": {"type": ["string", "array"]}},
    "required": ["content"],
}
_BY_ROLE: list[JsonValue] = [
    {"properties": {"role": {"enum": ["system", "developer", "user"]}}, "allOf": [_TEXT]},
    {"properties": {"role": {"const": "tool"}}, "required": ["tool_call_id"], "allOf": [_TEXT]},
    {
        "properties": {"role": {"const": "assistant"}},
        "anyOf": [_TEXT, {"required": ["tool_calls"]}, {"required": ["refusal"]}],
    },
]
"""What each role requires, for the API's description; ``validation`` checks it."""


class LLMMessage(Wire):
    """A message of the conversation. What an answer carried may come back as it came."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _BY_ROLE})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    """Text, or a list of parts: text and, from the user, images. Absent, null or an empty list only
    for an assistant that carries `tool_calls`, a `refusal` or reasoning."""
    tool_calls: Annotated[list[LLMToolCall], Field(max_length=128, fail_fast=True)] | None = None
    """The tools that the assistant called."""
    tool_call_id: Annotated[str, Field(max_length=200)] | None = None
    """The call that a `tool` message answers."""
    name: Annotated[str, Field(max_length=64)] | None = None
    """The name of the speaker, if several share a role."""
    reasoning_content: str | None = None
    """The assistant's reasoning before this answer, as answers carry it."""
    reasoning: str | None = None
    """Another name of `reasoning_content`."""
    refusal: str | None = None
    """What the assistant said instead of an answer, as answers carry it."""
    annotations: SkipJsonSchema[Any] = None
    index: SkipJsonSchema[Any] = None
    parsed: SkipJsonSchema[Any] = None


# Tools and formats ------------------------------------------------------------------------


class LLMFunction(Wire):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON Schema of the arguments."""
    strict: StrictBool | None = None


class LLMTool(Wire):
    type: Literal["function"]
    function: LLMFunction


class LLMFunctionName(Wire):
    name: Name


class LLMNamedTool(Wire):
    type: Literal["function"]
    function: LLMFunctionName


class LLMJsonSchema(Wire):
    name: Name
    # "schema" is a method of pydantic's own models
    json_schema: dict[str, Any] = Field(alias="schema")
    """A JSON Schema of the answer."""
    strict: StrictBool | None = None
    description: str | None = None


class LLMResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: LLMJsonSchema | None = None
    """Required where `type` is `json_schema`."""


class LLMStreamOptions(Wire):
    include_usage: StrictBool | None = None
    """On `/v1`, send the usage in a last chunk. `/llm` always sends it."""
    continuous_usage_stats: StrictBool | None = None
    """Send the usage so far with each piece of the answer."""
    include_obfuscation: StrictBool | None = None
    """Accepted, no effect."""


# The request ------------------------------------------------------------------------------


def _at_most_1024(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if len(value) > 1024:
        raise PydanticCustomError("too_many_fields", "Object should have 1024 or fewer fields")
    return {name: bias for name, bias in value.items() if bias is not None}


def _small_object(value: Any) -> Any:
    """Bound what is passed on as it is: an engine's template may do anything with it."""
    if isinstance(value, dict) and (len(value) > 16 or len(json.dumps(value)) > 4096):
        raise PydanticCustomError(
            "too_many_fields", "Object should have 16 or fewer fields, of 4096 bytes together"
        )
    return value


def _only_text(value: list[str]) -> list[str]:
    if set(value) != {"text"}:
        raise PydanticCustomError(UNSUPPORTED, "Only ['text'] is supported")
    return value


MAX_MESSAGES = 16_384
"""Of one conversation: a check of more would hold up other clients' tokens."""
MAX_CHOICES = 16
"""Answers to one request, each of which needs a slot."""
_StopString = Annotated[str, Field(min_length=1, max_length=1000)]
_Penalty = Annotated[float, Field(ge=-2, le=2), LAX]
_Bias = Annotated[
    float, Field(ge=-100, le=100, json_schema_extra={"type": ["number", "null"]}), LAX
]
_TokenId = Annotated[str, Field(pattern=_TOKEN_ID)]
MaxTokens = Annotated[int, Field(ge=1, le=_MAX_INT32), LAX]

Stop: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[_StopString, Tag("<string>")]
    | Annotated[list[_StopString], Field(max_length=4, fail_fast=True), Tag("<array>")],
    "a string or a list of at most 4 strings",
)
ToolChoice: TypeAlias = union_by_form(  # type: ignore[valid-type]
    Annotated[Literal["none", "auto", "required"], Tag("<string>")]
    | Annotated[LLMNamedTool, Tag("<object>")],
    "'none', 'auto', 'required' or an object that names a function",
)


class Sampling(Wire):
    """How a text is chosen and sent, for a conversation as for a prompt."""

    model: str = Field(default="", max_length=200)
    """The model's name; empty takes the default model."""
    temperature: Annotated[float, Field(ge=0, le=2), LAX] = 0.7
    """How freely tokens are chosen; 0 always takes the most likely one."""
    top_p: Annotated[float, Field(gt=0, le=1), LAX] = 1.0
    """Choose among the most likely tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=-1, le=_MAX_INT32), LAX] = -1
    """Choose among this many of the most likely tokens; -1 or 0 is off."""
    min_p: Annotated[float, Field(ge=0, le=1), LAX] = 0.0
    """Leave out tokens that are less likely than this share of the top token's probability."""
    stream: StrictBool = False
    """Send the answer piece by piece, as server-sent events."""
    stream_options: LLMStreamOptions | None = None
    """Only with `stream`."""
    stop: Stop | None = None
    """The answer ends before any of these strings."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), LAX] | None = None
    """Makes sampling repeatable, as far as the backend can."""
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    logit_bias: (
        Annotated[
            dict[_TokenId, _Bias],
            BeforeValidator(_at_most_1024),
        ]
        | None
    ) = None
    """Token ids → what is added to their logits."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10), LAX] = 1.0
    """Divides the logits of tokens that occurred; 1 is off."""
    min_tokens: Annotated[int, Field(ge=0, le=_MAX_INT32), LAX] = 0
    """The answer doesn't end before so many tokens."""
    ignore_eos: StrictBool = False
    """Go on after the model would end, up to `max_tokens`."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), LAX] = 1
    """The number of answers, on `/v1`; `/llm` has one."""
    user: Any = None
    """Accepted, no effect on the text."""


class LLMRequest(Sampling):
    """A request for text. A field that is null counts as absent, also in the objects below it."""

    messages: Annotated[
        list[LLMMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    ]
    """The conversation so far."""
    max_tokens: MaxTokens = 256
    """The answer is cut after this many tokens."""
    max_completion_tokens: MaxTokens | None = None
    """OpenAI's newer name of `max_tokens`."""
    logprobs: StrictBool = False
    """Send the log-probability of each token."""
    top_logprobs: Annotated[int, Field(ge=0, le=20), LAX] | None = None
    """Send this many alternatives of each token; only with `logprobs`."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """How much the model thinks first."""
    chat_template_kwargs: Annotated[dict[str, Any], BeforeValidator(_small_object)] | None = None
    """What the model's chat template is told, such as `{"enable_thinking": false}`."""
    response_format: LLMResponseFormat | None = None
    """Constrain the answer to JSON."""
    tools: Annotated[list[LLMTool], Field(max_length=128, fail_fast=True)] | None = None
    """Functions that the model may call."""
    tool_choice: ToolChoice | None = None
    """Whether a tool is called, and which one."""
    parallel_tool_calls: StrictBool | None = None
    continue_final_message: StrictBool = False
    """The last message is the assistant's, and the answer goes on with it."""
    add_generation_prompt: StrictBool | None = None
    """The opposite of `continue_final_message`, which vLLM's clients send beside it."""
    modalities: (
        Annotated[
            list[Annotated[str, Field(json_schema_extra={"const": "text"})]],
            Field(min_length=1, max_length=8),
            AfterValidator(_only_text),
        ]
        | None
    ) = None
    """What to answer with: `["text"]`."""
    metadata: Any = None
    """Accepted, no effect on the text."""
    store: Any = None
    """Accepted, no effect on the text."""
    service_tier: Any = None
    """Accepted, no effect on the text."""
    safety_identifier: Any = None
    """Accepted, no effect on the text."""
    prompt_cache_key: Any = None
    """Accepted, no effect on the text."""
    prompt_cache_retention: Any = None
    """Accepted, no effect on the text."""
