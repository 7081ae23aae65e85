"""``POST /v1/rerank``: documents by how well they answer a query, as Jina's and Cohere's APIs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from reverie.http.request.schema import Wire
from reverie.http.tasks.asked import MAX_INT32, Asked, read, usage
from reverie.ids import random_id
from reverie.tasks import Ranking, RerankRequest

_MAX_DOCUMENTS = 1000


def _text_of(value: Any) -> Any:
    """A document's text: it may be an object that holds it."""
    if isinstance(value, dict) and isinstance(value.get("text"), str) and len(value) == 1:
        return value["text"]
    if isinstance(value, dict):
        raise PydanticCustomError("wrong_type", 'Input should be a string or {"text": string}')
    return value


_Document = Annotated[
    StrictStr,
    Field(min_length=1, json_schema_extra={"type": ["string", "object"]}),
    BeforeValidator(_text_of),
]


class RerankBody(Wire):
    """A request for a ranking."""

    query: StrictStr = Field(min_length=1)
    documents: Annotated[
        list[_Document], Field(min_length=1, max_length=_MAX_DOCUMENTS, fail_fast=True)
    ]
    """Up to 1000 texts, or objects that hold one under `text`."""
    model: str = Field(default="", max_length=200)
    """The model's name; empty takes the first one that ranks."""
    top_n: Annotated[StrictInt, Field(ge=1, le=MAX_INT32)] | None = None
    """Give the best so many; else all."""
    return_documents: StrictBool = False
    """Repeat the documents in the answer."""


def parse(body: bytes) -> Asked[Ranking]:
    """Parse and check a request's body.

    Raises:
        InvalidRequest, UnsupportedParameter
    """
    asked = read(body, RerankBody)

    def answer(result: Ranking, model: str, tokens: int, estimated: bool) -> Any:
        # The order of equals is the client's.
        order = sorted(range(len(result.scores)), key=lambda index: -result.scores[index])
        results: list[dict[str, Any]] = []
        for index in order[: asked.top_n]:
            entry: dict[str, Any] = {"index": index, "relevance_score": result.scores[index]}
            if asked.return_documents:
                entry["document"] = {"text": asked.documents[index]}
            results.append(entry)
        return {
            "id": f"rerank-{random_id()}",
            "object": "list",
            "model": model,
            "results": results,
            "usage": usage(tokens, estimated=estimated),
        }

    return Asked(asked.model, RerankRequest(asked.query, asked.documents), answer)
