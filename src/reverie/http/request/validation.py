"""What is wrong with a request: the rules between its fields, and the words for every mistake.

``schema`` holds each field's own type and bounds. The rules that no single field can state are
here, and so are the words for what pydantic finds: what is accepted, nothing of how it is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

from reverie.http.request.json_schemas import SchemaBudget
from reverie.http.request.schema import (
    PATTERNS,
    UNSUPPORTED,
    LLMMessage,
    LLMNamedTool,
    LLMRequest,
    Sampling,
)

_MAX_MISTAKES = 100
MAX_IMAGES = 64
"""An engine fetches or unpacks each of them."""


class Mistake(NamedTuple):
    """One thing that is wrong with a request; ``loc`` is the path of the field."""

    loc: tuple[int | str, ...]
    message: str
    type: str = "value_error"


class OfferedTool(NamedTuple):
    """A tool that a request offers; ``at`` is the path of the object that has its name."""

    at: tuple[int | str, ...]
    name: str
    schema_field: str
    schema: dict[str, Any] | None


def tool_mistakes(tools: Iterable[OfferedTool]) -> Iterator[Mistake]:
    """Names that are there twice, and schemas that can't be used."""
    names: set[str] = set()
    schemas = SchemaBudget()
    for tool in tools:
        if tool.name in names:
            yield Mistake((*tool.at, "name"), "Another tool has this name")
        names.add(tool.name)
        if tool.schema is not None and (problem := schemas.problem(tool.schema)) is not None:
            yield Mistake((*tool.at, tool.schema_field), problem)


def find_mistakes(request: LLMRequest) -> list[Mistake]:
    """The mistakes between the fields of a request; each field is valid by itself."""
    mistakes = list(islice(_of_messages(request), _MAX_MISTAKES))
    # Plain requests, which most are, set none of the fields that the other rules are about.
    if request.model_fields_set - _PLAIN:
        mistakes += _of_options(request)
        mistakes += _of_continuation(request)
        mistakes += _of_format(request)
        mistakes += _of_tools(request)
    return mistakes


_PLAIN = frozenset({"messages", "model", "temperature", "max_tokens", "top_p", "top_k", "stream"})


def _of_messages(request: LLMRequest) -> Iterator[Mistake]:
    images = sum(part.type == "image_url" for m in request.messages for part in _parts(m))
    if images > MAX_IMAGES:
        yield Mistake(("messages",), f"Messages should have {MAX_IMAGES} or fewer images")
    for index, message in enumerate(request.messages):
        for field, complaint, kind in _of_message(message):
            yield Mistake(("messages", index, field), complaint, kind)


def _of_message(message: LLMMessage) -> Iterator[tuple[str, str, str]]:
    is_assistant = message.role == "assistant"
    if message.content in (None, []) and not (is_assistant and _says_something(message)):
        if message.content is None and not is_assistant:
            yield "content", "Field required", "missing"
        elif message.content is None:
            yield (
                "content",
                "Content may be null only for an assistant message with tool_calls or a refusal",
                "value_error",
            )
        else:
            yield "content", "List should have 1 or more items", "too_short"
    if not is_assistant:
        for field in ("tool_calls", "refusal", "reasoning_content", "reasoning"):
            if getattr(message, field):
                yield field, f"Only an assistant message carries {field}", "value_error"
        if any(part.type == "refusal" for part in _parts(message)):
            yield "content", "Only an assistant message has parts of type 'refusal'", "value_error"
    if message.role != "user" and any(part.type == "image_url" for part in _parts(message)):
        yield "content", "Only a user message has parts of type 'image_url'", "value_error"
    if message.reasoning and message.reasoning_content not in (None, "", message.reasoning):
        yield (
            "reasoning",
            "This is another name of reasoning_content: give one of them, or the same in both",
            "value_error",
        )
    if message.role == "tool":
        if message.tool_call_id is None:
            yield "tool_call_id", "Field required in a tool message", "missing"
    elif message.tool_call_id is not None:
        yield "tool_call_id", "Only a tool message carries a tool_call_id", "value_error"


def _says_something(message: LLMMessage) -> bool:
    """True if an assistant's message without content holds something else."""
    return bool(
        message.tool_calls or message.refusal or message.reasoning_content or message.reasoning
    )


def _has_text(message: LLMMessage) -> bool:
    if isinstance(message.content, list):
        return any(part.type == "text" and part.text for part in message.content)
    return bool(message.content)


def _parts(message: LLMMessage) -> list[Any]:
    return message.content if isinstance(message.content, list) else []


def _of_options(request: LLMRequest) -> Iterator[Mistake]:
    given = request.model_fields_set
    limit = request.max_completion_tokens
    if limit is not None and "max_tokens" in given and limit != request.max_tokens:
        yield Mistake(
            ("max_completion_tokens",),
            "This is another name of max_tokens: give one of them, or the same number in both",
        )
    yield from mistakes_of_sampling(request, request.max_tokens if limit is None else limit)
    if request.top_logprobs and not request.logprobs:
        yield Mistake(("top_logprobs",), "This needs logprobs to be true")


def mistakes_of_sampling(request: Sampling, max_tokens: int) -> Iterator[Mistake]:
    """The mistakes between the fields that requests for conversations and prompts share."""
    options = request.stream_options
    if options is not None and options.model_fields_set and not request.stream:
        yield Mistake(("stream_options",), "This is allowed only where stream is true")
    if options is not None and options.continuous_usage_stats and request.n > 1:
        yield Mistake(
            ("stream_options", "continuous_usage_stats"),
            "This is not supported together with n above 1",
            UNSUPPORTED,
        )
    if request.min_tokens > max_tokens:
        yield Mistake(("min_tokens",), "This is more than max_tokens")


def _of_continuation(request: LLMRequest) -> Iterator[Mistake]:
    continues = request.continue_final_message
    if request.add_generation_prompt is continues:
        yield Mistake(
            ("add_generation_prompt",),
            "This is supported only as the opposite of continue_final_message",
            UNSUPPORTED,
        )
    if not continues:
        return
    at = ("continue_final_message",)
    last = request.messages[-1]
    if last.role != "assistant" or not _has_text(last) or last.tool_calls:
        yield Mistake(at, "This needs an assistant's text as the last of the messages")
    form = request.response_format
    if form is not None and form.type != "text":
        yield Mistake(at, "This is not supported together with such a response_format", UNSUPPORTED)
    if request.tools and request.tool_choice not in (None, "auto", "none"):
        yield Mistake(
            at, "This is not supported together with a required or named tool", UNSUPPORTED
        )


def _of_format(request: LLMRequest) -> Iterator[Mistake]:
    form = request.response_format
    if form is None:
        return
    at = ("response_format", "json_schema")
    if form.json_schema is None:
        if form.type == "json_schema":
            yield Mistake(at, "Field required where type is 'json_schema'", "missing")
    elif form.type != "json_schema":
        yield Mistake(at, "This is allowed only where type is 'json_schema'")
    else:
        problem = SchemaBudget().problem(form.json_schema.json_schema)
        if problem is not None:
            yield Mistake((*at, "schema"), problem)


def _of_tools(request: LLMRequest) -> Iterator[Mistake]:
    tools = [
        OfferedTool(
            ("tools", index, "function"), one.function.name, "parameters", one.function.parameters
        )
        for index, one in enumerate(request.tools or ())
    ]
    yield from tool_mistakes(tools)
    names = {tool.name for tool in tools}
    choice = request.tool_choice
    if isinstance(choice, LLMNamedTool):
        if choice.function.name not in names:
            yield Mistake(("tool_choice", "function", "name"), "None of the tools has this name")
    elif choice == "required" and not names:
        yield Mistake(("tool_choice",), "This needs tools")


# Words for what pydantic finds -------------------------------------------------------------

_WORDS = {
    "extra_forbidden": "This field is not known",
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
    "string_type": "Input should be a string",
    "bool_type": "Input should be true or false",
    "int_type": "Input should be a whole number",
    "int_from_float": "Input should be a whole number",
    "int_parsing": "Input should be a whole number",
    "int_parsing_size": "Input should be a whole number of at most 64 bits",
    "float_type": "Input should be a number",
    "finite_number": "Input should be a number, and not an infinite one",
    "greater_than": "Input should be more than {gt}",
    "greater_than_equal": "Input should be {ge} or more",
    "less_than_equal": "Input should be {le} or less",
    "string_too_short": "String should have {min_length} or more characters",
    "string_too_long": "String should have {max_length} or fewer characters",
    "too_short": "List should have {min_length} or more items",
    "too_long": "List should have {max_length} or fewer items",
}
"""Other types keep pydantic's own words, or those of ``schema``."""


def error_text(mistake: ErrorDetails) -> str:
    """One mistake in words, without a full stop. It never repeats the value."""
    context = mistake.get("ctx", {})
    if mistake["type"] == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    words = _WORDS.get(mistake["type"])
    if words is None:
        return mistake["msg"]
    return words.format(**{name: _plain(bound) for name, bound in context.items()})


def _plain(bound: Any) -> Any:
    """A bound as people write it: 2 for pydantic's 2.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
