"""The OpenAPI entries of the routes that generate.

Those are raw ASGI handlers that FastAPI can't see, so their operations are written here. Names that
Livepeer's own document has (``genLLM``, ``LLMRequest``, ``HTTPError``, …) are kept: SDKs are
generated from them.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from fastapi import FastAPI
from pydantic import TypeAdapter

from reverie.http.dialects.wire import HTTPError, HTTPValidationError, LLMResponse
from reverie.http.request.completions import CompletionRequest
from reverie.http.request.messages_schema import MessagesRequest
from reverie.http.request.responses_schema import ResponsesRequest
from reverie.http.request.schema import HINTS, LLMRequest
from reverie.http.tasks.embeddings import EmbeddingsBody
from reverie.http.tasks.rerank import RerankBody
from reverie.http.tasks.tokens import DetokenizeBody, TokenizeBody

Schema: TypeAlias = dict[str, Any]


def describe(app: FastAPI) -> None:
    """Add the generation routes, which FastAPI doesn't serve, to what it says of the API."""
    describe_own = app.openapi

    def describe_all() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = extend(describe_own())
        return app.openapi_schema

    app.openapi = describe_all  # type: ignore[method-assign]


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
        "servers": [{"url": ".", "description": "Where this document comes from"}],
        "paths": {**_paths(), **document.get("paths", {})},
        "components": components,
    }


_ERRORS = {
    400: "The request can't be served: an unknown model, or a prompt longer than the context",
    401: "No key, or one that is not valid",
    403: "The key may not do this",
    404: "No model has this name",
    408: "The body did not arrive in time",
    409: "The same request, by its `Idempotency-Key`, is being answered",
    410: "The answer to this `Idempotency-Key` is not kept any more",
    413: "The body is too large",
    415: "The body is compressed in a way that is not read here",
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
_EXAMPLE = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 32}
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
    openai["responses"]["422"] = {
        "description": _KEY_REUSED,
        "content": {"application/json": {"schema": _ref("HTTPError")}},
    }
    dialects = {path: {"post": _dialect(*described)} for path, described in _DIALECTS.items()}
    tasks = {path: {"post": _task(*described)} for path, described in _TASKS.items()}
    return {
        "/llm": {"post": livepeer},
        "/v1/chat/completions": {"post": openai},
        **dialects,
        **tasks,
    }


def _dialect(id: str, body: str, summary: str, example: dict[str, Any]) -> dict[str, Any]:
    """A route that generates in a dialect whose answers docs/protocol.md describes."""
    operation = _task(id, body, summary, example)
    operation["tags"] = ["generate"]
    operation["responses"]["200"]["content"]["text/event-stream"] = {
        "schema": {"type": "object", "description": "Events, if `stream` is true"}
    }
    statuses = {409: _ERRORS[409], 410: _ERRORS[410], 422: _KEY_REUSED, 529: _ERRORS[503]}
    for status, description in statuses.items():
        operation["responses"][str(status)] = {
            "description": description,
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    for response in operation["responses"].values():
        response["content"]["application/json"]["schema"] = {"type": "object"}
    return operation


_KEY_REUSED = "The `Idempotency-Key` was used for another body"
_HI = {"role": "user", "content": "Say hello."}
_DIALECTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "/v1/completions": (
        "createCompletion",
        "CompletionRequest",
        "Prompts that are gone on with, in OpenAI's older dialect",
        {"prompt": "Once upon a time", "max_tokens": 16},
    ),
    "/v1/messages": (
        "createMessage",
        "MessagesRequest",
        "Messages, in Anthropic's dialect",
        {"max_tokens": 32, "messages": [_HI]},
    ),
    "/v1/responses": (
        "createResponse",
        "ResponsesRequest",
        "Responses, in OpenAI's newer dialect",
        {"input": "Say hello."},
    ),
}


def _task(id: str, body: str, summary: str, example: dict[str, Any]) -> dict[str, Any]:
    """A route that answers in one piece, and whose request isn't generation."""
    return {
        "tags": ["tasks"],
        "summary": summary,
        "operationId": id,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(body), "example": example}},
        },
        "responses": {
            "200": {
                "description": "The answer",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **{str(status): _error(status) for status in _ERRORS if status not in (409, 410, 422)},
        },
        "security": [{"HTTPBearer": []}],
    }


_TASKS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "/v1/embeddings": (
        "createEmbedding",
        "EmbeddingsBody",
        "Vectors of texts",
        {"input": ["One text", "another"]},
    ),
    "/v1/rerank": (
        "createRerank",
        "RerankBody",
        "Documents by how well they answer a query",
        {"query": "What is a panda?", "documents": ["It is a bear.", "Hi"]},
    ),
    "/tokenize": ("tokenize", "TokenizeBody", "Text → token ids", {"content": "Hello"}),
    "/detokenize": ("detokenize", "DetokenizeBody", "Token ids → text", {"tokens": [1, 2]}),
}


def _operation(id: str, summary: str, description: str, *, errors: list[int]) -> dict[str, Any]:
    return {
        "tags": ["generate"],
        "summary": summary,
        "description": description,
        "operationId": id,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("LLMRequest"), "example": _EXAMPLE}},
        },
        "responses": {
            "200": {
                "description": "The answer: JSON, or a stream of events if `stream` is true",
                "content": {
                    "application/json": {"schema": _ref("LLMResponse")},
                    "text/event-stream": {
                        "schema": {
                            "type": "object",
                            "description": "An event",
                            "properties": {
                                "data": {
                                    "type": "string",
                                    "description": "An `LLMResponse` with `delta`; last, `[DONE]`",
                                }
                            },
                            "required": ["data"],
                        },
                        "example": _STREAM_EXAMPLE,
                    },
                },
            },
            **{str(status): _error(status) for status in errors},
        },
        "security": [{"HTTPBearer": []}],
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


def _schemas() -> dict[str, Schema]:
    requests = (
        LLMRequest,
        CompletionRequest,
        EmbeddingsBody,
        RerankBody,
        TokenizeBody,
        DetokenizeBody,
    )
    lenient = (MessagesRequest, ResponsesRequest)
    types = (*requests, *lenient, LLMResponse, HTTPError, HTTPValidationError)
    _, schemas = TypeAdapter.json_schemas(
        [(one, "validation", TypeAdapter(one)) for one in types],
        ref_template="#/components/schemas/{model}",
    )
    described: dict[str, Schema] = dict(schemas["$defs"])
    for name in set[str]().union(*(_reachable(described, one.__name__) for one in requests)):
        described[name] = _with_nulls(described[name])
    return described


def _reachable(schemas: dict[str, Schema], name: str) -> set[str]:
    """A schema and those that it refers to."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += re.findall(r"#/components/schemas/(\w+)", str(schemas[name]))
    return found


def _with_nulls(schema: Schema) -> Schema:
    """An object of a request, in which null asks for nothing, and hints may be."""
    if "properties" not in schema:
        return schema
    required = schema.get("required", ())
    properties = {
        name: field if name in required else _or_null(field)
        for name, field in schema["properties"].items()
    }
    return {
        **schema,
        "properties": {**properties, **dict.fromkeys(sorted(HINTS), _HINT)},
        "additionalProperties": {"type": "null", "description": "Null asks for nothing."},
    }


def _or_null(field: Schema) -> Schema:
    if "anyOf" in field:
        null = {"type": "null"}
        return field if null in field["anyOf"] else {**field, "anyOf": [*field["anyOf"], null]}
    kind = field.get("type")
    if isinstance(kind, str) and "enum" not in field and "const" not in field:
        return {**field, "type": [kind, "null"]}
    about: Schema = {key: field[key] for key in _ABOUT if key in field}
    rest: Schema = {key: value for key, value in field.items() if key not in _ABOUT}
    return {**about, "anyOf": [rest, {"type": "null"}]} if rest else field


_ABOUT = ("title", "description", "default")
_HINT = {"description": "A hint, accepted without effect."}
