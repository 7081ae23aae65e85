"""What a request's fields must be to each other: the rules that no single field can state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from reverie.http.request.schema import LLMMessage, LLMNamedTool, LLMRequest

# A schema is checked in the event loop, at about 0.1 ms a subschema: these bound its worst stall.
_MAX_SCHEMA_NODES = 2_000
_MAX_SCHEMA_DEPTH = 64
_MAX_SCHEMA_BYTES = 128 * 1024
_MAX_REQUEST_NODES = 5_000
_MAX_MIXED_ITEMS = 256

_MAX_MISTAKES = 100


class Mistake(NamedTuple):
    """One thing that is wrong with a request; ``loc`` is the path of the field."""

    loc: tuple[int | str, ...]
    message: str
    type: str = "value_error"


def find_mistakes(request: LLMRequest) -> list[Mistake]:
    """What is wrong with a request whose fields are right one by one."""
    mistakes = list(islice(_of_messages(request), _MAX_MISTAKES))
    # Plain requests, which most are, set none of the fields that the other rules are about.
    if request.model_fields_set - _PLAIN:
        mistakes += _of_options(request)
        mistakes += _of_format(request)
        mistakes += _of_tools(request)
    return mistakes


_PLAIN = frozenset({"messages", "model", "temperature", "max_tokens", "top_p", "top_k", "stream"})


def _of_messages(request: LLMRequest) -> Iterator[Mistake]:
    for index, message in enumerate(request.messages):
        for field, complaint, kind in _of_message(message):
            yield Mistake(("messages", index, field), complaint, kind)


def _of_message(message: LLMMessage) -> Iterator[tuple[str, str, str]]:
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        if "content" not in message.model_fields_set and message.role != "assistant":
            yield "content", "Field required", "missing"
        else:
            yield (
                "content",
                "Content may be null only for an assistant message with tool_calls",
                "value_error",
            )
    if message.tool_calls and message.role != "assistant":
        yield "tool_calls", "Only an assistant message carries tool_calls", "value_error"
    for field in ("reasoning_content", "reasoning"):
        if getattr(message, field) and message.role != "assistant":
            yield field, f"Only an assistant message carries {field}", "value_error"
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


def _of_options(request: LLMRequest) -> Iterator[Mistake]:
    given = request.model_fields_set
    limit = request.max_completion_tokens
    if limit is not None and "max_tokens" in given and limit != request.max_tokens:
        yield Mistake(
            ("max_completion_tokens",),
            "This is another name of max_tokens: give one of them, or the same number in both",
        )
    if request.stream_options is not None and not request.stream:
        yield Mistake(("stream_options",), "This is allowed only where stream is true")
    if request.top_logprobs and not request.logprobs:
        yield Mistake(("top_logprobs",), "This needs logprobs to be true")


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
        problem = _Schemas().problem(form.json_schema.json_schema)
        if problem is not None:
            yield Mistake((*at, "schema"), problem)


def _of_tools(request: LLMRequest) -> Iterator[Mistake]:
    names: set[str] = set()
    schemas = _Schemas()
    for index, tool in enumerate(request.tools or ()):
        at = ("tools", index, "function")
        if tool.function.name in names:
            yield Mistake((*at, "name"), "Another tool has this name")
        names.add(tool.function.name)
        if tool.function.parameters is not None:
            problem = schemas.problem(tool.function.parameters)
            if problem is not None:
                yield Mistake((*at, "parameters"), problem)
    choice = request.tool_choice
    if isinstance(choice, LLMNamedTool):
        if choice.function.name not in names:
            yield Mistake(("tool_choice", "function", "name"), "None of the tools has this name")
    elif choice == "required" and not names:
        yield Mistake(("tool_choice",), "This needs tools")


# JSON Schemas -----------------------------------------------------------------------------


class _Schemas:
    """Checks the JSON Schemas of one request, within a budget for all of them."""

    def __init__(self) -> None:
        self._nodes = 0

    def problem(self, schema: dict[str, Any]) -> str | None:
        """What is wrong with a schema, or None."""
        nodes = _measure(schema)
        if isinstance(nodes, str):
            return nodes
        self._nodes += nodes
        if self._nodes > _MAX_REQUEST_NODES:
            return "The request's JSON Schemas are too large together"
        encoded = msgspec.json.encode(schema)
        if len(encoded) > _MAX_SCHEMA_BYTES:
            return f"A JSON Schema may have at most {_MAX_SCHEMA_BYTES} bytes"
        return _check(encoded)


def _measure(schema: dict[str, Any]) -> int | str:
    """Count a schema's objects and lists (long ones more than once), or say why it is refused."""
    nodes = 0
    stack: list[tuple[Any, int]] = [(schema, 1)]
    while stack:
        node, depth = stack.pop()
        nodes += 1 + len(node) // 8
        if nodes > _MAX_SCHEMA_NODES:
            return f"A JSON Schema may have at most {_MAX_SCHEMA_NODES} objects and lists"
        if depth > _MAX_SCHEMA_DEPTH:
            return f"A JSON Schema may be nested at most {_MAX_SCHEMA_DEPTH} levels deep"
        problem = _refused_list(node) if isinstance(node, list) else _refused_reference(node)
        if problem is not None:
            return problem
        children = node.values() if isinstance(node, dict) else node
        stack += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
    return nodes


def _refused_list(items: list[Any]) -> str | None:
    """Where items can't be sorted, the check that they differ compares each with each."""
    if len(items) <= _MAX_MIXED_ITEMS:
        return None
    kinds = {type(item) for item in items}
    if kinds == {str} or kinds <= {int, float}:
        return None
    return f"A list of more than {_MAX_MIXED_ITEMS} items may hold only strings, or only numbers"


def _refused_reference(node: dict[str, Any]) -> str | None:
    for key in ("$ref", "$dynamicRef"):
        target = node.get(key)
        if isinstance(target, str) and not target.startswith("#"):
            return f"{key} may only point into the schema itself ('#…')"
    return None


@lru_cache(maxsize=256)
def _check(encoded: bytes) -> str | None:
    """Check a schema against its draft's meta-schema.

    Cached, since an agent sends the same tools with every turn.
    """
    # Costs 0.1 s, and few requests carry a schema.
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    schema = msgspec.json.decode(encoded)
    draft = Draft202012Validator
    if isinstance(schema.get("$schema"), str):
        draft = validator_for(schema, default=draft)
    try:
        # No formats: they would hold patterns, which are ECMAScript's, against Python's grammar.
        draft.check_schema(schema, format_checker=None)
    except SchemaError as error:
        # Its message repeats the schema: only the place and the violated keyword are handed on.
        place = "/".join(str(part)[:50] for part in list(error.absolute_path)[:10])
        return f"Not a valid JSON Schema: at '#/{place}', against '{error.validator}'"
    except RecursionError:
        return "Not a valid JSON Schema: it is nested too deeply"
    return None
