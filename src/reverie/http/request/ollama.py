"""Requests in Ollama's dialect → ``GenerateRequest``.

Rule: a request without a message, or without a prompt, asks for no answer: the model is to be
loaded, or with ``keep_alive: 0`` unloaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from msgspec.structs import replace
from pydantic import ValidationError

from reverie.http.request.json_schemas import SchemaBudget
from reverie.http.request.lenient import ignored
from reverie.http.request.mistakes import decode_object, error_of, mistakes_of, not_json
from reverie.http.request.ollama_options import Options, refused, sampling
from reverie.http.request.ollama_schema import (
    ChatRequest,
    Message,
    PromptRequest,
    Request,
    Tool,
    ToolCall,
)
from reverie.http.request.schema import UNSUPPORTED
from reverie.http.request.validation import MAX_IMAGES, Mistake
from reverie.request import GenerateRequest

_UNSUPPORTED = {
    "context": "Send the conversation to /api/chat instead: no context is given or taken here",
    "template": "The model's own template is used: leave template out",
}
"""Fields of ``/api/generate`` that would change the prompt."""

Move = Literal["load", "unload"]
_Asked = TypeVar("_Asked", bound=Request)


class Parsed(NamedTuple):
    request: GenerateRequest
    ignored: tuple[str, ...]
    """What had no effect."""
    move: Move | None
    """What is to be done with the model, where no answer is asked for."""


def parse_chat(raw: bytes) -> Parsed:
    """Parse and check the body of ``/api/chat``.

    Raises:
        InvalidRequest: listing every mistake.
        UnsupportedParameter: its only mistakes are fields that aren't honoured here.
    """

    def mistakes(asked: ChatRequest) -> Iterator[Mistake]:
        for index, message in enumerate(asked.messages or ()):
            if message.images and message.role not in ("user", "tool"):
                at = ("messages", index, "images")
                yield Mistake(at, "Only a message of the user or of a tool has images")
            if message.tool_calls and message.role != "assistant":
                at = ("messages", index, "tool_calls")
                yield Mistake(at, "Only an assistant message carries tool_calls")
        yield from _of_tools(asked.tools or [])

    def convert(asked: ChatRequest) -> GenerateRequest:
        messages = _conversation(asked.messages or [])
        tools = [_tool(tool) for tool in asked.tools or ()] or None
        return _to_generate(asked, messages, tools=tools)

    return _parse(raw, ChatRequest, convert, mistakes)


def parse_prompt(raw: bytes) -> Parsed:
    """Parse and check the body of ``/api/generate``.

    Raises:
        InvalidRequest, UnsupportedParameter: as ``parse_chat``.
    """

    def mistakes(asked: PromptRequest) -> Iterator[Mistake]:
        for name, message in _UNSUPPORTED.items():
            if getattr(asked, name):
                yield Mistake((name,), message, UNSUPPORTED)
        for name in ("system", "images", "format"):
            if _is_bare(asked) and getattr(asked, name):
                yield Mistake((name,), "This is not supported together with raw or suffix")

    def convert(asked: PromptRequest) -> GenerateRequest:
        if _is_bare(asked):
            request = _to_generate(asked, [])
            return replace(
                request, prompt=asked.prompt, suffix=asked.suffix or None, prompt_bound=-1
            )
        messages: list[dict[str, Any]] = []
        if asked.prompt or asked.images:
            if asked.system:
                messages.append({"role": "system", "content": asked.system})
            content = _content(asked.prompt or "", asked.images or [])
            messages.append({"role": "user", "content": content})
        return _to_generate(asked, messages)

    return _parse(raw, PromptRequest, convert, mistakes)


def _is_bare(asked: PromptRequest) -> bool:
    """True if the prompt is to be taken as it is, with no template."""
    return bool(asked.prompt and (asked.raw or asked.suffix))


def _parse(
    raw: bytes,
    form: type[_Asked],
    convert: Callable[[_Asked], GenerateRequest],
    mistakes: Callable[[_Asked], Iterator[Mistake]],
) -> Parsed:
    body = decode_object(raw)
    try:
        asked = form.model_validate(body)
        request = convert(asked)
    except ValidationError as error:
        raise error_of(mistakes_of(error)) from None
    except RecursionError:
        raise not_json("it is nested too deeply") from None
    found = [*mistakes(asked), *_of_both(asked, request)]
    if found:
        raise error_of(found)
    move: Move | None = None
    if not request.messages and request.prompt is None:
        move = "unload" if _is_zero(asked.keep_alive) else "load"
    without_effect = ignored(asked)
    if asked.keep_alive is not None and move != "unload":
        without_effect = tuple(sorted((*without_effect, "keep_alive")))
    return Parsed(request, without_effect, move)


def _is_zero(keep_alive: Any) -> bool:
    """True for a duration of nothing, as a number or in Go's spelling."""
    if isinstance(keep_alive, str):
        return not any(digit in keep_alive for digit in "123456789")
    return keep_alive is not None and keep_alive == 0


# What is wrong ----------------------------------------------------------------------------


def _of_both(asked: Request, request: GenerateRequest) -> Iterator[Mistake]:
    if asked.options is not None:
        yield from refused(asked.options)
    if request.images > MAX_IMAGES:
        yield Mistake(("messages",), f"Messages should have {MAX_IMAGES} or fewer images")
    if asked.top_logprobs and not asked.logprobs:
        yield Mistake(("top_logprobs",), "This needs logprobs to be true")
    if isinstance(asked.format, dict):
        problem = SchemaBudget().problem(asked.format)
        if problem is not None:
            yield Mistake(("format",), problem)


def _of_tools(tools: list[Tool]) -> Iterator[Mistake]:
    names: set[str] = set()
    schemas = SchemaBudget()
    for index, tool in enumerate(tools):
        at = ("tools", index, "function")
        if tool.function.name in names:
            yield Mistake((*at, "name"), "Another tool has this name")
        names.add(tool.function.name)
        if tool.function.parameters is not None:
            problem = schemas.problem(tool.function.parameters)
            if problem is not None:
                yield Mistake((*at, "parameters"), problem)


# Into a GenerateRequest -------------------------------------------------------------------


def _to_generate(
    asked: Request, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
) -> GenerateRequest:
    return GenerateRequest(
        model=asked.model,
        messages=messages,
        stream=asked.stream is not False,
        include_usage=True,
        reasoning_effort=_effort(asked.think),
        logprobs=asked.logprobs or False,
        top_logprobs=asked.top_logprobs or 0,
        response_format=_response_format(asked.format),
        tools=tools,
        continue_final_message=asked.format is None and _is_begun(messages),
        **sampling(asked.options or Options()),
    )


def _effort(think: bool | str | None) -> str | None:
    """How much the model is to think; models that can think do so unless they are told not to."""
    if isinstance(think, str):
        return think
    return "none" if think is False else None


def _response_format(form: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if form is None:
        return None
    if isinstance(form, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}


def _is_begun(messages: list[dict[str, Any]]) -> bool:
    """True if the answer is to go on with the last message, as Ollama's templates do."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _conversation(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages in OpenAI's shape, where each tool's result names the call that it answers.

    Ollama's clients give calls no ids: they get some by their order, so that the same conversation
    has the same ones in each turn.
    """
    plain: list[dict[str, Any]] = []
    calls = _Calls()
    for message in messages:
        if message.role == "tool":
            plain += _result(message, calls)
        else:
            plain.append(_message(message, [calls.add(call) for call in message.tool_calls or ()]))
    return plain


class _Calls:
    """The calls of a conversation, and which of them have no result yet."""

    def __init__(self) -> None:
        self._count = 0
        self._answered: set[str] = set()
        self._waiting: dict[str | None, deque[str]] = {None: deque()}
        """Ids by the names of their tools; under None, those of all tools."""

    def add(self, call: ToolCall) -> dict[str, Any]:
        """The call in OpenAI's shape."""
        name = call.function.name
        id = call.id or f"call_{self._count}"
        self._count += 1
        self._waiting.setdefault(name, deque()).append(id)
        self._waiting[None].append(id)
        function = {"name": name, "arguments": call.function.arguments.strip() or "{}"}
        return {"id": id, "type": "function", "function": function}

    def answer(self, id: str | None, name: str | None) -> str:
        """The id of the call that a result is of: the one that it names, or the first one that
        waits for a result of that tool, or for any."""
        id = id or self._first(name) or self._first(None) or f"call_{self._count}"
        self._answered.add(id)
        return id

    def _first(self, name: str | None) -> str | None:
        waiting = self._waiting.get(name, deque())
        while waiting and waiting[0] in self._answered:
            waiting.popleft()
        return waiting[0] if waiting else None


def _message(message: Message, calls: list[dict[str, Any]]) -> dict[str, Any]:
    # Most chat templates know no "developer": it is OpenAI's newer name of "system".
    role = "system" if message.role == "developer" else message.role
    content = _content(message.content or "", message.images or [])
    plain: dict[str, Any] = {"role": role, "content": content}
    if calls:
        plain |= {"content": content or None, "tool_calls": calls}
    if message.thinking and role == "assistant":
        plain["reasoning_content"] = message.thinking
    return plain


def _result(message: Message, calls: _Calls) -> Iterator[dict[str, Any]]:
    """A tool's result, and its images, which the user shows in the message after it."""
    name = message.tool_name
    id = calls.answer(message.tool_call_id, name)
    result = {"role": "tool", "tool_call_id": id, "content": message.content or ""}
    yield {**result, "name": name} if name else result
    if message.images:
        yield {"role": "user", "content": _content("", message.images)}


def _content(text: str, images: list[str]) -> str | list[dict[str, Any]]:
    """The text; with images, a list of parts with the images first, as Ollama shows them."""
    if not images:
        return text
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}} for url in images
    ]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _tool(tool: Tool) -> dict[str, Any]:
    it = tool.function
    given = {"name": it.name, "description": it.description, "parameters": it.parameters}
    function = {name: value for name, value in given.items() if value is not None}
    return {"type": "function", "function": function}
