"""A request's bytes → ``GenerateRequest``, or an error that lists every mistake in them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from reverie.http.request.mistakes import decode_object, error_of, mistakes_of, not_json
from reverie.http.request.plain import parse_plain
from reverie.http.request.sampling import choices_of, sampling_of
from reverie.http.request.schema import (
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
from reverie.http.request.validation import Mistake, find_mistakes
from reverie.request import GenerateRequest


def parse_one(raw: bytes) -> GenerateRequest:
    """As ``parse``, for a dialect whose answers have one choice.

    Raises:
        UnsupportedParameter, InvalidRequest
    """
    request, *more = parse(raw)
    if more:
        mistake = Mistake(("n",), "Only n = 1 is supported on this route", UNSUPPORTED)
        raise error_of([mistake])
    return request


def parse(raw: bytes) -> list[GenerateRequest]:
    """Parse and check a request's body.

    Returns:
        The generations of the answer's choices.

    Raises:
        UnsupportedParameter: its only mistakes are fields that aren't honoured here.
        InvalidRequest: it has any other mistake.
    """
    plain = parse_plain(raw)
    if plain is not None:
        return [plain]
    body = decode_object(raw)
    try:
        request = LLMRequest.model_validate(body)
    except ValidationError as error:
        raise error_of(mistakes_of(error)) from None
    except RecursionError:
        raise not_json("the body is nested too deeply") from None
    mistakes = find_mistakes(request)
    if mistakes:
        raise error_of(mistakes)
    return choices_of(_to_generate(request), request.n)


# Into a GenerateRequest -------------------------------------------------------------------


def _to_generate(request: LLMRequest) -> GenerateRequest:
    limit = request.max_completion_tokens
    return GenerateRequest(
        **sampling_of(request),
        messages=[_message(message) for message in request.messages],
        max_tokens=request.max_tokens if limit is None else limit,
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
