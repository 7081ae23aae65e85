"""A request in Anthropic's dialect → ``GenerateRequest``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from reverie.http.request.json_schemas import SchemaBudget
from reverie.http.request.lenient import ignored
from reverie.http.request.messages_schema import (
    ImageBlock,
    Message,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
    URLSource,
)
from reverie.http.request.mistakes import decode_object, error_of, mistakes_of, not_json
from reverie.http.request.sampling import left_open
from reverie.http.request.validation import MAX_IMAGES, Mistake, OfferedTool, tool_mistakes
from reverie.prompt_bounds import text_of
from reverie.request import GenerateRequest

_BILLING = "x-anthropic-billing-header:"
"""What Claude Code's first system block begins with. It changes with each request, and no prefix of
a prompt would ever be found in an engine's cache."""


class Parsed(NamedTuple):
    request: GenerateRequest
    ignored: tuple[str, ...]
    """What had no effect."""


def parse(raw: bytes, *, counting: bool = False) -> Parsed:
    """Parse and check a request's body.

    Args:
        counting: no answer is wanted, only the prompt's size.

    Raises:
        InvalidRequest: listing every mistake.
    """
    body = decode_object(raw)
    try:
        asked = MessagesRequest.model_validate(body)
        request = _to_generate(asked)
    except ValidationError as error:
        raise error_of(mistakes_of(error)) from None
    except RecursionError:
        raise not_json("it is nested too deeply") from None
    mistakes = list(_mistakes(asked, request, counting=counting))
    if mistakes:
        raise error_of(mistakes)
    return Parsed(request, ignored(asked))


def parse_to_count(raw: bytes) -> GenerateRequest:
    """As ``parse``, where no answer is wanted, only the prompt's size."""
    return parse(raw, counting=True).request


def _mistakes(
    asked: MessagesRequest, request: GenerateRequest, *, counting: bool
) -> Iterator[Mistake]:
    """What is wrong between the fields, each of which is valid by itself."""
    if asked.max_tokens is None and not counting:
        yield Mistake(("max_tokens",), "Field required", "missing")
    if request.images > MAX_IMAGES:
        yield Mistake(("messages",), f"Messages should have {MAX_IMAGES} or fewer images")
    if all(message["role"] == "system" for message in request.messages):
        yield Mistake(("messages",), "None of the messages holds what the model can read")
    tools = [
        OfferedTool(("tools", index), tool.name, "input_schema", tool.input_schema)
        for index, tool in enumerate(asked.tools or ())
        if tool.input_schema is not None
    ]
    yield from tool_mistakes(tools)
    names = {tool.name for tool in tools}
    choice = asked.tool_choice
    if choice is not None and choice.type == "tool" and choice.name not in names:
        yield Mistake(("tool_choice", "name"), "None of the tools has this name")
    elif choice is not None and choice.type == "any" and not names:
        yield Mistake(("tool_choice",), "This needs tools")
    schema = _schema(asked)
    if schema is not None and (problem := SchemaBudget().problem(schema)) is not None:
        yield Mistake(("output_config", "format", "schema"), problem)
    if request.continue_final_message and (schema is not None or _is_forced(asked)):
        yield Mistake(
            ("messages",),
            "An answer that the assistant has begun goes with no format, and no tool that must be "
            "called",
        )


def _schema(asked: MessagesRequest) -> dict[str, Any] | None:
    config = asked.output_config
    return None if config is None or config.format is None else config.format.json_schema


def _is_forced(asked: MessagesRequest) -> bool:
    return asked.tool_choice is not None and asked.tool_choice.type in ("any", "tool")


def _to_generate(asked: MessagesRequest) -> GenerateRequest:
    choice = asked.tool_choice
    tools = [_tool(tool) for tool in asked.tools or () if tool.input_schema is not None]
    schema = _schema(asked)
    messages = list(_conversation(asked))
    return GenerateRequest(
        model=asked.model,
        messages=messages,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        max_tokens=asked.max_tokens or 1,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=max(0, asked.top_k or 0),
        left_open=left_open(asked),
        stream=asked.stream or False,
        include_usage=True,
        stop=tuple(asked.stop_sequences or ()),
        tells_stop=True,
        reasoning_effort=_effort(asked),
        response_format=None if schema is None else _format(schema),
        tools=tools or None,
        tool_choice=_tool_choice(asked) if tools else None,
        continue_final_message=_is_begun(messages),
        parallel_tool_calls=False
        if choice is not None and choice.disable_parallel_tool_use and tools
        else None,
    )


def _is_begun(messages: list[dict[str, Any]]) -> bool:
    """True if the answer is to go on with the last message: Anthropic's prefill."""
    last = messages[-1] if messages else {}
    text = isinstance(last.get("content"), str) and last["content"] != ""
    return last.get("role") == "assistant" and text and "tool_calls" not in last


def _effort(asked: MessagesRequest) -> str | None:
    """How much the model is to think; models that can think do so unless they are told not to."""
    if asked.thinking is not None and asked.thinking.type == "disabled":
        return "none"
    effort = asked.output_config.effort if asked.output_config is not None else None
    return "xhigh" if effort == "max" else effort


def _conversation(asked: MessagesRequest) -> Iterator[dict[str, Any]]:
    system = _system(asked)
    if system:
        yield {"role": "system", "content": system}
    for message in asked.messages:
        yield from _messages_of(message)


def _system(asked: MessagesRequest) -> str:
    if isinstance(asked.system, str):
        return asked.system
    texts = [block.text for block in asked.system or ()]
    return "\n".join(text for text in texts if not text.startswith(_BILLING))


def _messages_of(message: Message) -> Iterator[dict[str, Any]]:
    """A message as OpenAI's dialect has it: each tool's result is a message of its own."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for block in message.content:
        if isinstance(block, ToolResultBlock):
            result, images = _result(block)
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": result}
            parts += images
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": json.dumps(block.input)}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, TextBlock | ImageBlock):
            parts.append(_part(block))
    if not (parts or calls or thoughts):
        return
    plain: dict[str, Any] = {"role": message.role, "content": _joined(parts, bool(calls))}
    if calls:
        plain["tool_calls"] = calls
    if thoughts:
        plain["reasoning_content"] = "\n".join(thoughts)
    yield plain


def _result(block: ToolResultBlock) -> tuple[str, list[dict[str, Any]]]:
    """A tool's result as text, and its images, which the user shows in the message after it."""
    if block.content is None or isinstance(block.content, str):
        return block.content or "", []
    parts = [_part(one) for one in block.content if isinstance(one, TextBlock | ImageBlock)]
    return text_of({"content": parts}), [part for part in parts if part["type"] == "image_url"]


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    if isinstance(source, URLSource):
        url = source.url
    else:
        url = f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _joined(parts: list[dict[str, Any]], beside_calls: bool) -> str | list[dict[str, Any]] | None:
    if any(part["type"] == "image_url" for part in parts):
        return parts
    if not parts and beside_calls:
        return None
    return text_of({"content": parts})


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(asked: MessagesRequest) -> str | dict[str, Any] | None:
    choice = asked.tool_choice
    if choice is None:
        return None
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
