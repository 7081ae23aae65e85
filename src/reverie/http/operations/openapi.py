"""The OpenAPI entries of the routes that generate.

Those are raw ASGI handlers that FastAPI can't see, so that their part of the document is written
here. Names that Livepeer's own document has (``genLLM``, ``LLMRequest``, ``HTTPError``, …) are
kept: SDKs are generated from them.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from reverie.http.request.schema import LLMRequest

Schema = dict[str, Any]

WITH_KEY: dict[str, Any] = {"security": [{"HTTPBearer": []}]}
"""What an operation says that takes a caller's key."""
WITH_KEY_ELSEWHERE: dict[str, Any] = {"security": [{"HTTPBearer": []}, {}]}
"""The same, of one that callers on the server's own machine need no key for."""


def extend(document: dict[str, Any]) -> dict[str, Any]:
    """Give FastAPI's document with the generation routes added; the argument stays as it is."""
    components = dict(document.get("components", {}))
    components["schemas"] = {**components.get("schemas", {}), **_schemas()}
    components["securitySchemes"] = {
        **components.get("securitySchemes", {}),
        "HTTPBearer": {"type": "http", "scheme": "bearer"},
    }
    return {
        **document,
        "paths": {**_paths(), **document.get("paths", {})},
        "components": components,
    }


# Paths ------------------------------------------------------------------------------------

_ERRORS = {
    400: "The request can't be served: an unknown model, or a prompt longer than the context",
    401: "No key, or one that is not valid",
    403: "The key may not do this",
    404: "No model has this name",
    408: "The body did not arrive in time",
    413: "The body is too large",
    422: "The body has a wrong type, is out of bounds, or has a field that is not supported",
    429: "A limit of the key is reached",
    500: "Something went wrong in the gateway",
    502: "No backend could answer",
    503: "The queue is full, or the model is loading",
    504: "The backend was silent for too long",
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds until another try makes sense",
        "schema": {"type": "integer"},
    }
}
_STREAM_EXAMPLE = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795392196,'
    '"model":"smollm2-135m","choices":[{"index":0,"delta":{"role":"assistant",'
    '"content":"Hello"},"finish_reason":null}]}\n\n'
    "data: [DONE]\n\n"
)


def _paths() -> dict[str, Any]:
    livepeer = _operation(
        "genLLM",
        "LLM",
        "Generate text using a language model.",
        errors=[status for status in _ERRORS if status != 404],
    )
    livepeer["x-speakeasy-name-override"] = "llm"
    openai = _operation(
        "createChatCompletion",
        "Chat completions",
        "Generate text using a language model, in OpenAI's dialect. Also served under "
        "`/chat/completions` and `/llm/chat/completions`.",
        errors=[status for status in _ERRORS if status != 422],
    )
    return {"/llm": {"post": livepeer}, "/v1/chat/completions": {"post": openai}}


def _operation(id: str, summary: str, description: str, *, errors: list[int]) -> dict[str, Any]:
    return {
        "tags": ["generate"],
        "summary": summary,
        "description": description,
        "operationId": id,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("LLMRequest")}},
        },
        "responses": {
            "200": {
                "description": "The answer: JSON, or a stream of events if `stream` is true",
                "content": {
                    "application/json": {"schema": _ref("LLMResponse")},
                    "text/event-stream": {
                        "schema": {
                            "type": "string",
                            "description": "One `LLMResponse` with `delta` a line, then `[DONE]`",
                        },
                        "example": _STREAM_EXAMPLE,
                    },
                },
            },
            **{str(status): _error(status) for status in errors},
        },
        **WITH_KEY,
    }


def _error(status: int) -> dict[str, Any]:
    name = "HTTPValidationError" if status == 422 else "HTTPError"
    response: dict[str, Any] = {
        "description": _ERRORS[status],
        "content": {"application/json": {"schema": _ref(name)}},
    }
    if status in (429, 503):
        response["headers"] = _RETRY_AFTER
    return response


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


# Schemas ----------------------------------------------------------------------------------

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}


def _object(description: str, required: str, properties: dict[str, Schema]) -> Schema:
    schema: Schema = {
        "type": "object",
        "description": description,
        "properties": properties,
    }
    if required:
        schema["required"] = required.split()
    return schema


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _schemas() -> dict[str, Schema]:
    _, request = models_json_schema(
        [(LLMRequest, "validation")], ref_template="#/components/schemas/{model}"
    )
    schemas = {**request["$defs"], **_ANSWER_SCHEMAS, **_ERROR_SCHEMAS}
    return {name: {"title": name, **schema} for name, schema in sorted(schemas.items())}


# An optional property here is absent where it isn't used, never null.
_ANSWER_SCHEMAS: dict[str, Schema] = {
    "LLMResponse": _object(
        "An answer, or one chunk of a streamed one.",
        "id model created usage choices",
        {
            "id": _TEXT,
            "object": {"type": "string", "enum": ["chat.completion", "chat.completion.chunk"]},
            "created": {"type": "integer", "description": "Seconds since 1970"},
            "model": _TEXT,
            "choices": _list(_ref("LLMChoice")),
            "usage": _ref("LLMTokenUsage"),
            "error": _ref("LLMError"),
        },
    ),
    "LLMChoice": _object(
        "`message` in an answer, `delta` in a chunk.",
        "index",
        {
            "index": _COUNT,
            "finish_reason": {
                "type": ["string", "null"],
                "enum": ["stop", "length", "tool_calls", "content_filter", "error", None],
                "description": "Null in every chunk but the last; never null in an answer",
            },
            "delta": _ref("LLMAnswerMessage"),
            "message": _ref("LLMAnswerMessage"),
            "logprobs": _ref("LLMLogprobs"),
        },
    ),
    "LLMAnswerMessage": _object(
        "What the model wrote.",
        "",
        {
            "role": {"type": "string", "enum": ["assistant"]},
            "content": {
                "type": ["string", "null"],
                "description": "Null only on `/v1`, beside `tool_calls` with no text",
            },
            "reasoning_content": _TEXT,
            "tool_calls": _list(_ref("LLMAnswerToolCall")),
        },
    ),
    "LLMAnswerToolCall": _object(
        "A tool call, or in a chunk a piece of one: `id`, `type` and `name` come with the first.",
        "function",
        {
            "index": {**_COUNT, "description": "In chunks: the call that the piece belongs to"},
            "id": _TEXT,
            "type": {"type": "string", "enum": ["function"]},
            "function": _object(
                "The function and its arguments, as JSON text.",
                "arguments",
                {"name": _TEXT, "arguments": _TEXT},
            ),
        },
    ),
    "LLMLogprobs": _object(
        "Log-probabilities, a token an item.",
        "content",
        {"content": _list(_ref("LLMTokenLogprob"))},
    ),
    "LLMTokenLogprob": _object(
        "One token's log-probability.",
        "token logprob",
        {
            "token": _TEXT,
            "logprob": {"type": "number", "maximum": 0},
            "bytes": _list({"type": "integer", "minimum": 0, "maximum": 255}),
            "top_logprobs": _list(_ref("LLMTokenLogprob")),
        },
    ),
    "LLMTokenUsage": _object(
        "Tokens, as the engine counted them.",
        "prompt_tokens completion_tokens total_tokens",
        {
            "prompt_tokens": _COUNT,
            "completion_tokens": _COUNT,
            "total_tokens": _COUNT,
            "prompt_tokens_details": _object(
                "Parts of `prompt_tokens`.", "cached_tokens", {"cached_tokens": _COUNT}
            ),
            "estimated": {
                "type": "boolean",
                "description": "True where the engine counted nothing; else absent",
            },
        },
    ),
}
_ERROR_SCHEMAS: dict[str, Schema] = {
    "HTTPError": _object(
        "HTTP error response model.",
        "detail error",
        {"detail": _ref("APIError"), "error": _ref("LLMError")},
    ),
    "APIError": _object("API error response model.", "msg", {"msg": _TEXT}),
    "HTTPValidationError": _object(
        "All that is wrong with a request.",
        "detail error",
        {"detail": _list(_ref("ValidationError")), "error": _ref("LLMError")},
    ),
    "ValidationError": _object(
        "One mistake, and where it is.",
        "loc msg type",
        {
            "loc": _list({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
            "msg": _TEXT,
            "type": _TEXT,
        },
    ),
    "LLMError": _object(
        "The error in OpenAI's shape.",
        "message type param code",
        {
            "message": _TEXT,
            "type": _TEXT,
            "param": {"type": ["string", "null"], "description": "The field that is at fault"},
            "code": _TEXT,
        },
    ),
}
