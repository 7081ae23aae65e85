"""A request in OpenAI's Responses dialect → ``GenerateRequest``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from pydantic import ValidationError

from reverie.http.request.json_schemas import SchemaBudget
from reverie.http.request.lenient import ignored
from reverie.http.request.mistakes import decode_object, error_of, mistakes_of, not_json
from reverie.http.request.responses_schema import (
    AllowedTools,
    CallItem,
    CallOutputItem,
    FunctionTool,
    ImagePart,
    MessageItem,
    NamedTool,
    ReasoningItem,
    RefusalPart,
    ResponsesRequest,
    TextFormat,
    TextPart,
)
from reverie.http.request.sampling import left_open
from reverie.http.request.validation import MAX_IMAGES, Mistake, OfferedTool, tool_mistakes
from reverie.prompt_bounds import text_of
from reverie.request import DEFAULT_MAX_TOKENS, GenerateRequest

_LOGPROBS = "message.output_text.logprobs"
_ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "user",
)
_MAX_ECHO = 16 * 1024
"""Bytes of a field's JSON."""
_DEFAULTS: dict[str, Any] = {
    "background": False,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "truncation": "disabled",
}


class Parsed(NamedTuple):
    request: GenerateRequest
    ignored: tuple[str, ...]
    """What had no effect."""
    echo: bytes
    """The fields of the request that its answer repeats, as what follows in a JSON object."""
    summary: bool
    """Its reasoning is to be given as a summary."""
    keep: bool
    """Its answer is to be kept."""


def parse(raw: bytes) -> Parsed:
    """Parse and check a request's body.

    Raises:
        UnsupportedParameter: its only mistakes are fields that aren't honoured here.
        InvalidRequest: it has any other mistake.
    """
    body = decode_object(raw)
    try:
        asked = ResponsesRequest.model_validate(body)
        messages = _one_system(list(_conversation(asked)))
        request = _to_generate(asked, messages)
        echo = _echo(body, asked)
    except ValidationError as error:
        raise error_of(mistakes_of(error)) from None
    except RecursionError:
        raise not_json("it is nested too deeply") from None
    mistakes = list(_mistakes(asked, request))
    if mistakes:
        raise error_of(mistakes)
    summary = bool(asked.reasoning and (asked.reasoning.model_extra or {}).get("summary"))
    return Parsed(request, ignored(asked), echo, summary, asked.store is True)


def parse_to_count(raw: bytes) -> GenerateRequest:
    """As ``parse``, where no answer is wanted, only the prompt's size."""
    return parse(raw).request


def _echo(body: dict[str, Any], asked: ResponsesRequest) -> bytes:
    """What the answer repeats. It is in a stream three times: large fields are left out.

    Temperature and ``top_p`` are left to the encoder, since the model may have its own defaults.
    """
    echo = dict.fromkeys(_ECHOED) | _DEFAULTS
    for name in _ECHOED:
        if body.get(name) is not None:
            value = msgspec.json.encode(body[name])
            if len(value) <= _MAX_ECHO:
                echo[name] = msgspec.Raw(value)
    for name in ("parallel_tool_calls", "store"):
        if (value := getattr(asked, name)) is not None:
            echo[name] = value
    return b"," + msgspec.json.encode(echo)[1:-1]


def _mistakes(asked: ResponsesRequest, request: GenerateRequest) -> Iterator[Mistake]:
    """What is wrong between the fields, each of which is valid by itself."""
    if asked.input is None and asked.instructions is None:
        yield Mistake(("input",), "Field required", "missing")
    elif not request.messages:
        yield Mistake(("input",), "None of the items holds what the model can read")
    if request.images > MAX_IMAGES:
        yield Mistake(("input",), f"Input should have {MAX_IMAGES} or fewer images")
    if isinstance(asked.input, list):
        for index, item in enumerate(asked.input):
            yield from _mistakes_of_item(item, index)
    tools = [
        OfferedTool(("tools", index), tool.name, "parameters", tool.parameters)
        for index, tool in enumerate(asked.tools or ())
        if isinstance(tool, FunctionTool)
    ]
    yield from tool_mistakes(tools)
    yield from _mistakes_of_choice(asked, {tool.name for tool in tools})
    if asked.text is not None and asked.text.format is not None:
        yield from _mistakes_of_format(asked.text.format)


def _mistakes_of_item(item: Any, index: int) -> Iterator[Mistake]:
    if not isinstance(item, MessageItem) or isinstance(item.content, str):
        return
    at = ("input", index, "content")
    if item.role != "assistant" and any(isinstance(part, RefusalPart) for part in item.content):
        yield Mistake(at, "Only an assistant's message has parts of type 'refusal'")
    if item.role != "user" and any(isinstance(part, ImagePart) for part in item.content):
        yield Mistake(at, "Only a user's message has parts of type 'input_image'")


def _mistakes_of_choice(asked: ResponsesRequest, names: set[str]) -> Iterator[Mistake]:
    choice = asked.tool_choice
    if isinstance(choice, NamedTool) and choice.name not in names:
        yield Mistake(("tool_choice", "name"), "None of the functions in tools has this name")
    elif isinstance(choice, AllowedTools):
        for index, tool in enumerate(choice.tools):
            if tool.name not in names:
                yield Mistake(
                    ("tool_choice", "tools", index, "name"),
                    "None of the functions in tools has this name",
                )
    elif choice == "required" and not names:
        yield Mistake(("tool_choice",), "This needs functions in tools")


def _mistakes_of_format(form: TextFormat) -> Iterator[Mistake]:
    at = ("text", "format")
    if form.type != "json_schema":
        return
    if form.name is None:
        yield Mistake((*at, "name"), "Field required where type is 'json_schema'", "missing")
    if form.json_schema is None:
        yield Mistake((*at, "schema"), "Field required where type is 'json_schema'", "missing")
    elif (problem := SchemaBudget().problem(form.json_schema)) is not None:
        yield Mistake((*at, "schema"), problem)


def _to_generate(asked: ResponsesRequest, messages: list[dict[str, Any]]) -> GenerateRequest:
    choice = asked.tool_choice
    tools = [_tool(tool) for tool in _offered(asked)]
    effort = asked.reasoning.effort if asked.reasoning is not None else None
    logprobs = bool(asked.top_logprobs) or _LOGPROBS in (asked.include or ())
    return GenerateRequest(
        model=asked.model,
        messages=messages,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        max_tokens=asked.max_output_tokens or DEFAULT_MAX_TOKENS,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        left_open=left_open(asked, max_tokens="max_output_tokens"),
        stream=asked.stream or False,
        include_usage=True,
        reasoning_effort="xhigh" if effort == "max" else effort,
        logprobs=logprobs,
        top_logprobs=asked.top_logprobs or 0,
        response_format=_response_format(asked),
        tools=tools or None,
        tool_choice=_tool_choice(choice) if tools else None,
        parallel_tool_calls=asked.parallel_tool_calls if tools else None,
    )


def _offered(asked: ResponsesRequest) -> list[FunctionTool]:
    """The functions that may be called."""
    tools = [tool for tool in asked.tools or () if isinstance(tool, FunctionTool)]
    choice = asked.tool_choice
    if isinstance(choice, AllowedTools):
        allowed = {tool.name for tool in choice.tools}
        return [tool for tool in tools if tool.name in allowed]
    return tools


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    for name in ("description", "parameters", "strict"):
        if (value := getattr(tool, name)) is not None:
            function[name] = value
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> str | dict[str, Any] | None:
    if isinstance(choice, NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    if isinstance(choice, AllowedTools):
        return choice.mode
    return choice if isinstance(choice, str) else None


def _response_format(asked: ResponsesRequest) -> dict[str, Any] | None:
    form = asked.text.format if asked.text is not None else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": form.name, "schema": form.json_schema}
    for name in ("strict", "description"):
        if (value := getattr(form, name)) is not None:
            schema[name] = value
    return {"type": "json_schema", "json_schema": schema}


# The conversation -------------------------------------------------------------------------


def _conversation(asked: ResponsesRequest) -> Iterator[dict[str, Any]]:
    if asked.instructions:
        yield {"role": "system", "content": asked.instructions}
    if isinstance(asked.input, str):
        yield {"role": "user", "content": asked.input}
        return
    turn = _Turn()
    for item in asked.input or ():
        if isinstance(item, MessageItem) and item.role == "assistant":
            turn.texts.append(text_of({"content": _content(item.content)}))
        elif isinstance(item, CallItem):
            turn.calls.append(_call(item))
        elif isinstance(item, ReasoningItem):
            turn.thoughts += [part.text for part in item.content or item.summary or ()]
        elif isinstance(item, MessageItem):
            yield from turn.messages()
            turn = _Turn()
            role = "user" if item.role == "user" else "system"
            yield {"role": role, "content": _content(item.content)}
        elif isinstance(item, CallOutputItem):
            yield from turn.messages()
            turn = _Turn()
            yield from _result(item)
    yield from turn.messages()


class _Turn:
    """One message of the assistant, out of the items that come one after the other."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.thoughts: list[str] = []

    def messages(self) -> Iterator[dict[str, Any]]:
        """The message, if there is any."""
        if not (self.texts or self.calls or self.thoughts):
            return
        text = "\n".join(self.texts) if self.texts or not self.calls else None
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.calls:
            message["tool_calls"] = self.calls
        if self.thoughts:
            message["reasoning_content"] = "\n".join(self.thoughts)
        yield message


def _call(item: CallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments.strip() or "{}"}
    return {"id": item.call_id, "type": "function", "function": function}


def _result(item: CallOutputItem) -> Iterator[dict[str, Any]]:
    """A function's result as text; its images are shown by the user in a message after it."""
    content = _content(item.output)
    yield {
        "role": "tool",
        "tool_call_id": item.call_id,
        "content": text_of({"content": content}),
    }
    if not isinstance(content, str):
        yield {"role": "user", "content": [one for one in content if one["type"] == "image_url"]}


def _content(content: str | list[Any]) -> str | list[dict[str, Any]]:
    """The parts, if images are among them; else the text."""
    if isinstance(content, str):
        return content
    parts = [_part(part) for part in content]
    if any(part["type"] == "image_url" for part in parts):
        return parts
    return text_of({"content": parts})


def _part(part: TextPart | RefusalPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        image = {"url": part.image_url}
        if part.detail not in (None, "original"):
            image["detail"] = str(part.detail)
        return {"type": "image_url", "image_url": image}
    return {"type": "text", "text": part.refusal if isinstance(part, RefusalPart) else part.text}


def _one_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with the system's at the beginning made one: many templates take only one."""
    count = next(
        (at for at, message in enumerate(messages) if message["role"] != "system"), len(messages)
    )
    if count < 2:
        return messages
    texts = [text_of(message) for message in messages[:count]]
    return [{"role": "system", "content": "\n\n".join(texts)}, *messages[count:]]
