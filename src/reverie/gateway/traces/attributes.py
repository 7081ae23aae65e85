"""The names of attributes: OpenTelemetry's for generative AI and HTTP, and Reverie's own.

The conventions are those of v1.41 of ``open-telemetry/semantic-conventions``, the last version in
that repository, or the latest of ``open-telemetry/semantic-conventions-genai``. What differs for
what is told here: ``gen_ai.request.top_k`` is a whole number, ``gen_ai.request.reasoning.level`` is
there, and a message of ``gen_ai.output.messages`` has no ``finish_reason``.

Rule: a name always has values of one type, since encoded attributes are kept by their values, and
to Python 1 and 1.0 are the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

from reverie.request import GenerateRequest
from reverie.tasks import DetokenizeRequest, EmbedRequest, RerankRequest, TaskRequest

Value: TypeAlias = str | int | float | bool | tuple[str, ...]
Attribute: TypeAlias = tuple[str, Value]
Attributes: TypeAlias = tuple[Attribute, ...]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS = "http.response.status_code"
SCHEME = "url.scheme"
PATH = "url.path"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR = "error.type"

REQUEST_ID = "reverie.request_id"
KEY = "reverie.key"
OUTCOME = "reverie.outcome"
BACKEND = "reverie.backend"
FROM_BACKEND = "reverie.backend.from"
AFTER_TOKENS = "reverie.after_tokens"
REASON = "reverie.reason"
POSITION = "reverie.queue.position"
REPLAYED = "reverie.replayed"
ESTIMATED = "reverie.usage.estimated"
FAILOVERS = "reverie.failovers"

_TASKS: dict[type[TaskRequest[Any]], str] = {
    EmbedRequest: "embeddings",
    RerankRequest: "rerank",
    DetokenizeRequest: "detokenize",
}
_JSON_FORMATS = ("json_object", "json_schema")


def operation_of(request: GenerateRequest | TaskRequest[Any]) -> str:
    """What is asked for. The conventions name neither ranking nor the splitting into tokens."""
    if isinstance(request, GenerateRequest):
        return "chat" if request.prompt is None else "text_completion"
    return _TASKS.get(type(request), "tokenize")


def parameters_of(request: GenerateRequest | TaskRequest[Any], *, latest: bool) -> Attributes:
    """What is told of a request besides its text. Of sampling, only what is on."""
    if isinstance(request, EmbedRequest) and request.dimensions is not None:
        return (("gen_ai.embeddings.dimension.count", request.dimensions),)
    if not isinstance(request, GenerateRequest):
        return ()
    output = None
    if request.response_format is not None:
        output = "json" if request.response_format.get("type") in _JSON_FORMATS else "text"
    return _parameters(
        request.max_tokens,
        request.temperature,
        request.top_p,
        request.top_k,
        request.seed,
        request.presence_penalty,
        request.frequency_penalty,
        request.stream,
        output,
        request.reasoning_effort,
        latest,
    )


@lru_cache(maxsize=1024)
def _parameters(
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    presence_penalty: float,
    frequency_penalty: float,
    stream: bool,
    output: str | None,
    effort: str | None,
    latest: bool,
) -> Attributes:
    """Equal ones are the same object, since they are looked up by them later."""
    found: list[Attribute] = [
        ("gen_ai.request.max_tokens", max_tokens),
        ("gen_ai.request.temperature", float(temperature)),
        ("gen_ai.request.top_p", float(top_p)),
    ]
    add = found.append
    if top_k > 0:
        add(("gen_ai.request.top_k", top_k if latest else float(top_k)))
    if seed is not None:
        add(("gen_ai.request.seed", seed))
    if presence_penalty:
        add(("gen_ai.request.presence_penalty", float(presence_penalty)))
    if frequency_penalty:
        add(("gen_ai.request.frequency_penalty", float(frequency_penalty)))
    if stream:
        add(("gen_ai.request.stream", True))
    if output is not None:
        add(("gen_ai.output.type", output))
    if latest and effort is not None:
        add(("gen_ai.request.reasoning.level", effort))
    return tuple(found)
