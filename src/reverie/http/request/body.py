"""A request's bytes → ``GenerateRequest``, or an error that lists every mistake in them.

Rule 1: an error names the field (``param``, a dotted path) and what would be accepted; it never
repeats a value, since prompts are private.

Rule 2: the code is ``unsupported_parameter`` only if every mistake is of that sort; one plain
mistake makes it ``invalid_request``.
"""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import ValidationError

from reverie.errors import InvalidRequest, UnsupportedParameter
from reverie.http.request.schema import (
    TAGS,
    UNSUPPORTED,
    LLMImagePart,
    LLMMessage,
    LLMRefusalPart,
    LLMRequest,
    LLMResponseFormat,
    LLMTextPart,
    LLMTool,
    LLMToolCall,
)
from reverie.http.request.validation import Mistake, error_text, find_mistakes
from reverie.request import GenerateRequest

_MAX_DETAILS = 20
_MAX_NAME = 100
_UNSUPPORTED_TYPES = frozenset({UNSUPPORTED, "extra_forbidden"})

_BOM = b"\xef\xbb\xbf"
"""A byte order mark, which some editors and PowerShell write in front."""
_decode = msgspec.json.Decoder().decode


def parse(raw: bytes) -> GenerateRequest:
    """Parse and check a request's body.

    Raises:
        UnsupportedParameter: its only mistakes are fields that aren't honoured here.
        InvalidRequest: it has any other mistake.
    """
    body = _decode_object(raw)
    try:
        request = LLMRequest.model_validate(body)
    except ValidationError as error:
        raise _error(_mistakes_of(error)) from None
    except RecursionError:
        raise _not_json("the body is nested too deeply") from None
    mistakes = find_mistakes(request)
    if mistakes:
        raise _error(mistakes)
    return _to_generate(request)


def _decode_object(raw: bytes) -> dict[str, Any]:
    try:
        body = _decode(raw.removeprefix(_BOM))
    except UnicodeDecodeError:
        raise _not_json("it is not UTF-8") from None
    except (msgspec.DecodeError, RecursionError, OverflowError) as error:
        deep = isinstance(error, RecursionError)
        raise _not_json("it is nested too deeply" if deep else str(error)) from None
    if not isinstance(body, dict):
        message = "The request body should be a JSON object."
        raise InvalidRequest(
            message, details=[{"loc": ["body"], "msg": message, "type": "model_attributes_type"}]
        )
    return body


def _not_json(reason: str) -> InvalidRequest:
    message = f"The request body can't be read as JSON: {reason}."
    return InvalidRequest(
        message, details=[{"loc": ["body"], "msg": message, "type": "json_invalid"}]
    )


def _mistakes_of(error: ValidationError) -> list[Mistake]:
    mistakes: list[Mistake] = []
    for one in error.errors(include_url=False, include_input=False):
        loc = [part for part in one["loc"] if part not in TAGS and part != "[key]"]
        at = one.get("ctx", {}).get("at")
        if at is not None:
            loc.append(at)
        mistakes.append(Mistake(tuple(loc), error_text(one), one["type"]))
    return mistakes


def _error(mistakes: list[Mistake]) -> InvalidRequest:
    first = mistakes[0]
    details = [
        {"loc": ["body", *_clipped(mistake.loc)], "msg": mistake.message, "type": mistake.type}
        for mistake in mistakes[:_MAX_DETAILS]
    ]
    param = ".".join(str(part) for part in _clipped(first.loc))
    message = f"{param}: {first.message}." if param else f"{first.message}."
    more = len(mistakes) - 1
    if more:
        message += f" ({more} more {'mistake' if more == 1 else 'mistakes'}.)"
    kind = InvalidRequest
    if all(mistake.type in _UNSUPPORTED_TYPES for mistake in mistakes):
        kind = UnsupportedParameter
    return kind(message, param=param or None, details=details)


def _clipped(loc: tuple[int | str, ...]) -> list[int | str]:
    """A field's path, with names clipped: the client chose them, and they may be huge."""
    return [part[:_MAX_NAME] if isinstance(part, str) else part for part in loc]


# Into a GenerateRequest -------------------------------------------------------------------


def _to_generate(request: LLMRequest) -> GenerateRequest:
    options = request.stream_options
    limit = request.max_completion_tokens
    return GenerateRequest(
        model=request.model,
        messages=[_message(message) for message in request.messages],
        temperature=request.temperature,
        max_tokens=request.max_tokens if limit is None else limit,
        top_p=request.top_p,
        top_k=max(0, request.top_k),
        min_p=request.min_p,
        stream=request.stream,
        include_usage=options is not None and options.include_usage is True,
        continuous_usage=options is not None and options.continuous_usage_stats is True,
        stop=_stop(request.stop),
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias or None,
        repetition_penalty=request.repetition_penalty,
        min_tokens=request.min_tokens,
        ignore_eos=request.ignore_eos,
        reasoning_effort=request.reasoning_effort,
        chat_template_kwargs=request.chat_template_kwargs or None,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs or 0,
        response_format=_response_format(request.response_format),
        tools=[_tool(tool) for tool in request.tools] if request.tools else None,
        tool_choice=_tool_choice(request.tool_choice),
        parallel_tool_calls=request.parallel_tool_calls,
        continue_final_message=request.continue_final_message,
    )


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _message(message: LLMMessage) -> dict[str, Any]:
    content = _content(message)
    # Most chat templates know no "developer": it is OpenAI's newer name of "system".
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": content}
    if message.tool_calls:
        plain["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name:
        plain["name"] = message.name
    if reasoning := message.reasoning_content or message.reasoning:
        plain["reasoning_content"] = reasoning
    return plain


def _content(message: LLMMessage) -> str | list[dict[str, Any]] | None:
    """The parts, if images are among them; else the text."""
    content = message.content
    if isinstance(content, list) and any(isinstance(part, LLMImagePart) for part in content):
        return [_part(part) for part in content]
    return _text(message)


def _part(part: LLMTextPart | LLMImagePart | LLMRefusalPart) -> dict[str, Any]:
    if isinstance(part, LLMImagePart):
        image = _set(url=part.image_url.url, detail=part.image_url.detail)
        return {"type": "image_url", "image_url": image}
    return {"type": "text", "text": _part_text(part)}


def _part_text(part: LLMTextPart | LLMRefusalPart) -> str:
    return part.refusal if isinstance(part, LLMRefusalPart) else part.text


def _text(message: LLMMessage) -> str | None:
    """The message's text, with an assistant's refusal at its end; None beside tool calls alone."""
    content = message.content
    if isinstance(content, list):
        # One line each, as vLLM and llama.cpp join them.
        texts = [_part_text(part) for part in content]
        content = "\n".join(texts) if texts else None
    if message.refusal:
        return f"{content}\n{message.refusal}" if content else message.refusal
    return content if content is not None or message.tool_calls else ""


def _tool_call(call: LLMToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments.strip() or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def _set(**values: Any) -> dict[str, Any]:
    """The values that are set. Only this level: a null inside a JSON Schema has a meaning."""
    return {name: value for name, value in values.items() if value is not None}


def _tool(tool: LLMTool) -> dict[str, Any]:
    it = tool.function
    function = _set(
        name=it.name, description=it.description, parameters=it.parameters, strict=it.strict
    )
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> str | dict[str, Any] | None:
    if choice is None or isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice.function.name}}


def _response_format(form: LLMResponseFormat | None) -> dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.json_schema is None:
        return {"type": form.type}
    it = form.json_schema
    return {
        "type": form.type,
        "json_schema": _set(
            name=it.name, schema=it.json_schema, strict=it.strict, description=it.description
        ),
    }
