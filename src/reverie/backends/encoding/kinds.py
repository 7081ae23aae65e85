"""Makes the request body for each kind of engine.

Rule 1: a body is built field by field (an allow-list); a client's fields are never passed through.

Rule 2: nothing is dropped silently. ``check`` refuses by name what a kind can't honour.

Rule 3: a field that is off isn't sent, unless the engine's default differs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from reverie.backends.encoding import forced_tools, images, livepeer
from reverie.backends.encoding.json_reading import read, without_booleans
from reverie.backends.encoding.json_schema import Converter, translate
from reverie.errors import UnsupportedParameter
from reverie.request import GenerateRequest
from reverie.settings import BackendKind, BackendSettings

_SEEDS = 2**32 - 1
"""llama.cpp's seeds have 32 bits, of which the highest value means "random"."""

_REASONING: dict[BackendKind, tuple[str, ...]] = {
    "vllm": ("reasoning", "reasoning_content"),  # the newer name and the older one
    "ollama": ("reasoning",),
    "openai": (),
}
"""The names of an assistant's ``reasoning_content``, where a kind uses others.

OpenAI's chat completions accept no reasoning and would refuse the field. Its models would never
see it, so it is left out (see docs/protocol.md).
"""

_CAN_CONTINUE: frozenset[BackendKind] = frozenset({"llamacpp", "vllm", "sglang"})
"""The kinds that know ``continue_final_message``. Others ignore it and start anew."""

_CONTROLS: dict[str, frozenset[BackendKind]] = {
    "repetition_penalty": frozenset({"generic", "llamacpp", "vllm", "sglang"}),
    "min_tokens": frozenset({"generic", "vllm", "sglang"}),
    "ignore_eos": frozenset({"generic", "llamacpp", "vllm", "sglang"}),
    "reasoning_effort": frozenset({"generic", "llamacpp", "vllm", "sglang", "ollama", "openai"}),
    "chat_template_kwargs": frozenset({"generic", "llamacpp", "vllm", "sglang"}),
}
"""Fields that some kinds honour, and which. A server of an unknown kind is trusted with all."""
_OFF: dict[str, Any] = {"repetition_penalty": 1.0, "min_tokens": 0, "ignore_eos": False}
"""The values that ask for nothing, where that isn't None."""

_BY_OWNER: dict[str, BackendKind] = {
    "llamacpp": "llamacpp",
    "vllm": "vllm",
    "sglang": "sglang",
    "library": "ollama",
}
"""Kinds by ``owned_by`` in the engine's list of models."""

CONTINUOUS_USAGE: frozenset[BackendKind] = frozenset({"vllm", "sglang"})
"""The kinds that know ``continuous_usage_stats``: the usage so far with each chunk, which may hold
several tokens (vllm-project/vllm#5742, sgl-project/sglang#12241)."""

_TAKES_SUFFIX: frozenset[BackendKind] = frozenset({"generic", "ollama", "openai"})
"""The kinds whose completions fill the gap between a prompt and a suffix."""

TELLS_STOP: frozenset[BackendKind] = frozenset({"vllm", "sglang"})
"""The kinds that tell which stop string ended an answer."""

_SCHEMA = "response_format.json_schema.schema"
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""With free whitespace, a small model may write it for ever."""

_encode = msgspec.json.Encoder().encode


def check(
    request: GenerateRequest,
    kind: BackendKind,
    converter: Converter = "gbnf",
    *,
    settings: BackendSettings | None = None,
) -> None:
    """Refuse what this kind of engine can't honour.

    Args:
        converter: what makes a constraint of a JSON Schema, on llama.cpp.
        settings: those of this engine; None if it is embedded.

    Raises:
        UnsupportedParameter: naming the field.
    """
    if kind == "livepeer":
        livepeer.check(request)
    if kind in ("openai", "ollama"):
        _refuse(request.top_k > 0, "top_k", kind)
        _refuse(request.min_p > 0, "min_p", kind)
    if request.images:
        images.check(request, kind, settings)
    if kind == "ollama" and request.prompt is not None:  # whose template is around it
        _refuse(not request.suffix or isinstance(request.prompt, tuple), "prompt", kind)
    _refuse(bool(request.suffix) and kind not in _TAKES_SUFFIX, "suffix", kind)
    continues = settings.continues if settings is not None else None
    can = kind in _CAN_CONTINUE if continues is None else continues
    _refuse(request.continue_final_message and not can, "continue_final_message", kind)
    if kind == "ollama":
        _refuse(bool(request.logit_bias), "logit_bias", kind)
        _refuse(forced_tools.is_forced(request), "tool_choice", kind)
    _refuse(
        request.continuous_usage and kind not in _CAN_CONTINUE,  # those that tell the prompt's size
        "stream_options.continuous_usage_stats",
        kind,
    )
    for field, kinds in _CONTROLS.items():
        _refuse(_asks(request, field) and kind not in kinds, field, kind)
    if kind == "llamacpp":
        if request.tools:
            constrained = (request.response_format or {}).get("type", "text") != "text"
            callable_ = request.tool_choice != "none"
            _refuse(request.logprobs, "logprobs", kind, beside="tools")
            _refuse(constrained and callable_, "response_format", kind, beside="tools")
        for schema, param in _schemas(request):
            translate(schema, param, converter)


def kind_of(owned_by: str) -> BackendKind:
    """The kind of an engine by ``owned_by`` in its list of models; empty: not known yet."""
    return _BY_OWNER.get(owned_by, "generic")


def can_continue(settings: BackendSettings, kind: BackendKind) -> bool:
    """True if this engine can go on with an assistant's message at the end."""
    return kind in _CAN_CONTINUE if settings.continues is None else settings.continues


COMPLETIONS = "completions"
"""The path of the route that takes a prompt as it is, relative to the base URL."""


def address(settings: BackendSettings) -> tuple[str, str]:
    """The base URL of this engine and, relative to it, the path of its route for messages."""
    if settings.kind == "livepeer":
        return livepeer.base_url(settings.url), livepeer.PATH
    return settings.url, "chat/completions"


def encode(
    request: GenerateRequest, model: str, kind: BackendKind, converter: Converter = "gbnf"
) -> bytes:
    """The JSON body. The request has passed ``check``.

    Args:
        model: the model's name on that engine.
        converter: as in ``check``.
    """
    if kind == "livepeer":
        return livepeer.encode(request, model)
    body: dict[str, Any] = {
        "model": model,
        **(_prompt(request) if request.prompt is not None else _chat(request, kind)),
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": request.temperature,
        "top_p": request.top_p,
        **_sampling(request),
    }
    body |= _controls(request, kind)
    if kind == "llamacpp":
        if request.logprobs:  # without alternatives it computes none: they are cut from the answer
            field = "top_logprobs" if request.prompt is None else "logprobs"
            body[field] = max(1, request.top_logprobs)
        # Its own defaults are top_k 40 and min_p 0.05.
        body["top_k"] = request.top_k
        body["min_p"] = request.min_p
        # One event per prompt batch. Without these, llama.cpp notices a client that leaves during
        # its prompt only once no slot has had a result for a second.
        body["return_progress"] = True
        body["timings_per_token"] = True  # a chunk may hold several tokens, as for an emoji
        if request.seed is not None:
            body["seed"] = request.seed % _SEEDS
        if "tools" in body:
            body["tools"] = [_readable(tool) for tool in request.tools or ()]
        body |= _constraint(request, converter)
    elif kind in CONTINUOUS_USAGE:
        body["stream_options"]["continuous_usage_stats"] = True
    elif kind == "ollama" and body.pop("tool_choice", None) == "none":
        del body["tools"]  # it has no tool_choice; without tools it calls none
    return _encode(body)


def _asks(request: GenerateRequest, field: str) -> bool:
    return bool(getattr(request, field) != _OFF.get(field))


def _controls(request: GenerateRequest, kind: BackendKind) -> dict[str, Any]:
    """The fields of ``_CONTROLS`` that are set. llama.cpp has two of them under other names."""
    asked = {field: getattr(request, field) for field in _CONTROLS if _asks(request, field)}
    if kind == "llamacpp":
        if "repetition_penalty" in asked:
            asked["repeat_penalty"] = asked.pop("repetition_penalty")
        if (effort := asked.pop("reasoning_effort", None)) is not None:
            told: dict[str, Any] = {
                "reasoning_effort": effort
            }  # where the model's template knows it
            if effort == "none":
                told["enable_thinking"] = False
            asked["chat_template_kwargs"] = told | asked.get("chat_template_kwargs", {})
    return asked


def _prompt(request: GenerateRequest) -> dict[str, Any]:
    """The fields of a prompt that is taken as it is, and of what comes of it."""
    prompt = request.prompt
    body = {
        "prompt": prompt + (request.answer_so_far or "") if isinstance(prompt, str) else prompt,
        "max_tokens": request.max_tokens,
    }
    if request.suffix:
        body["suffix"] = request.suffix
    return {**body, "logprobs": request.top_logprobs} if request.logprobs else body


def _chat(request: GenerateRequest, kind: BackendKind) -> dict[str, Any]:
    """The fields of a conversation, and of what comes of it."""
    body = {
        "messages": _messages(_conversation(request), kind),
        "max_completion_tokens" if kind == "openai" else "max_tokens": request.max_tokens,
        **_output(request),
    }
    if request.answer_so_far or request.continue_final_message:
        body["add_generation_prompt"] = False
        body["continue_final_message"] = True
    return body


def _conversation(request: GenerateRequest) -> list[dict[str, Any]]:
    """The messages, followed by the answer so far."""
    if not request.answer_so_far:
        return request.messages
    *before, last = request.messages
    if request.continue_final_message:
        return [*before, {**last, "content": last["content"] + request.answer_so_far}]
    return [*request.messages, {"role": "assistant", "content": request.answer_so_far}]


def _messages(messages: list[dict[str, Any]], kind: BackendKind) -> list[dict[str, Any]]:
    """The messages, as the kind takes them."""
    written = []
    for message in messages:
        if "reasoning_content" in message or "tool_calls" in message:
            message = dict(message)
            names = _REASONING.get(kind)
            if names is not None and (reasoning := message.pop("reasoning_content", None)):
                message |= dict.fromkeys(names, reasoning)
            if "tool_calls" in message:
                message["tool_calls"] = [_tool_call(call, kind) for call in message["tool_calls"]]
        written.append(message)
    return written


INVALID = "INVALID_JSON"
"""The name under which arguments that are no object stand in one, as Anthropic advises."""


def _tool_call(call: dict[str, Any], kind: BackendKind) -> dict[str, Any]:
    """A call of an earlier turn, whose arguments may be no JSON, as where the answer was cut.

    OpenAI's models take any text. Other engines parse it: llama.cpp answers 500 to what isn't JSON,
    vLLM and Ollama refuse it. Chat templates write arguments as JSON, or go over their names and
    values: only an object passes through all of these. Deep nesting counts as no JSON, since
    llama.cpp dies of 100,000 levels.
    """
    arguments = call["function"]["arguments"]
    if kind == "openai":
        return call
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        value = arguments
    if isinstance(value, dict):
        return call
    text = "{}" if value is None else _encode({INVALID: arguments}).decode()
    return {**call, "function": {**call["function"], "arguments": text}}


def _readable(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool whose parameters llama.cpp can read."""
    function = tool["function"]
    if not isinstance(function.get("parameters"), dict):
        return tool
    return {
        **tool,
        "function": {**function, "parameters": without_booleans(read(function["parameters"]))},
    }


def grammar(request: GenerateRequest) -> str | None:
    """The LLGuidance grammar that constrains the answer; None if nothing does."""
    schema = _wanted(request, "llguidance")
    if schema is None:
        return None
    return f"%llguidance {{}}\nstart: %json {_encode({**schema, 'x-guidance': _LAYOUT}).decode()}"


def _constraint(request: GenerateRequest, converter: Converter) -> dict[str, Any]:
    """llama.cpp's fields that constrain the answer, in place of the client's fields."""
    if converter == "gbnf":
        schema = _wanted(request, "gbnf")
        if schema is None:
            return {}
        asked = {"name": "answer", "strict": True, "schema": schema}
        fields: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": asked}}
        if forced_tools.is_forced(request):
            fields["tool_choice"] = "auto"
        return fields
    constraint = grammar(request)
    if constraint is None:
        return {}
    fields = {
        "grammar": constraint,
        "response_format": {"type": "text"},
        # The grammar holds from the first token on, so no part of the answer is reasoning.
        "reasoning_format": "none",
    }
    if request.tools:  # they are rendered, but no grammar is taken while they may be called
        fields["tool_choice"] = "none"
    return fields


def _wanted(request: GenerateRequest, converter: Converter) -> dict[str, Any] | None:
    """The JSON Schema of the answer's text, translated; None for free text."""
    form = forced_tools.response_format(request) or {"type": "text"}
    if form["type"] == "text":
        return None
    if form["type"] == "json_object":
        return {"type": "object"}
    return translate(form["json_schema"]["schema"], _SCHEMA, converter)


def _schemas(request: GenerateRequest) -> list[tuple[Any, str]]:
    """The client's JSON Schemas that constrain the answer, each with its path in the request."""
    if forced_tools.is_forced(request):
        return forced_tools.parameters(request)
    form = request.response_format or {}
    return [(form["json_schema"]["schema"], _SCHEMA)] if form.get("type") == "json_schema" else []


def _sampling(request: GenerateRequest) -> dict[str, Any]:
    optional = {
        "top_k": max(0, request.top_k),
        "min_p": request.min_p,
        "stop": request.stop,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": request.logit_bias,
    }
    sampling = {name: value for name, value in optional.items() if value}
    return sampling if request.seed is None else {**sampling, "seed": request.seed}


def _output(request: GenerateRequest) -> dict[str, Any]:
    set_: dict[str, Any] = {}
    if request.logprobs:
        set_["logprobs"] = True
        set_["top_logprobs"] = request.top_logprobs
    if request.response_format is not None:
        set_["response_format"] = request.response_format
    if request.tools:
        set_["tools"] = request.tools
        if request.tool_choice is not None:
            set_["tool_choice"] = request.tool_choice
        if request.parallel_tool_calls is not None:
            set_["parallel_tool_calls"] = request.parallel_tool_calls
    return set_


def _refuse(asked: bool, field: str, kind: BackendKind, *, beside: str = "") -> None:
    if asked:
        together = f" together with {beside}" if beside else ""
        raise UnsupportedParameter(
            f"This model's engine ({kind}) does not support {field}{together}.", param=field
        )
