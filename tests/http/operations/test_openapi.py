from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, Usage
from reverie.http.dialects import LIVEPEER, OPENAI
from reverie.http.dialects.base import Asked, Dialect
from reverie.http.operations.openapi import extend
from reverie.request import GenerateRequest

PATHS = ["/llm", "/v1/chat/completions"]
DIALECTS = ("/v1/completions", "/v1/messages", "/v1/responses")
TASKS = ["/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize"]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return extend({"openapi": "3.1.0", "paths": {"/health": {}}, "components": {"schemas": {}}})


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from references(child)


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    )


def test_the_operation_is_the_one_that_livepeers_sdks_are_made_from(
    document: dict[str, Any],
) -> None:
    operation = document["paths"]["/llm"]["post"]
    assert operation["operationId"] == "genLLM"
    assert operation["tags"] == ["generate"]
    assert operation["summary"] == "LLM"
    assert operation["x-speakeasy-name-override"] == "llm"
    assert operation["security"] == [{"HTTPBearer": []}]
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


@pytest.mark.parametrize("path", PATHS)
def test_both_forms_of_the_answer_are_declared(document: dict[str, Any], path: str) -> None:
    content = document["paths"][path]["post"]["responses"]["200"]["content"]
    assert content.keys() == {"application/json", "text/event-stream"}


@pytest.mark.parametrize(("path", "own"), [("/llm", set()), ("/v1/chat/completions", {"404"})])
def test_the_errors_are_declared(document: dict[str, Any], path: str, own: set[str]) -> None:
    common = {"400", "401", "403", "408", "409", "410", "413", "415", "422", "429"}
    common |= {"500", "502", "503", "504"}
    responses = document["paths"][path]["post"]["responses"]
    assert responses.keys() == {"200"} | common | own


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_schema_is_a_valid_one(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_what_was_there_is_kept_and_the_argument_is_not_changed() -> None:
    original = {"paths": {"/health": {}}, "components": {"schemas": {"Mine": {}}}}
    before = json.dumps(original)
    extended = extend(original)
    assert extended["paths"].keys() == {"/health", *PATHS, *DIALECTS, *TASKS}
    assert "Mine" in extended["components"]["schemas"]
    assert json.dumps(original) == before


def test_bounds_of_fields_are_published(document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"]["LLMRequest"]["properties"]
    assert properties["temperature"]["minimum"] == 0
    assert properties["temperature"]["maximum"] == 2
    assert properties["max_tokens"] | {"title": "", "description": ""} == {
        "type": ["integer", "null"],
        "default": 256,
        "minimum": 1,
        "maximum": 2**31 - 1,
        "title": "",
        "description": "",
    }


@pytest.mark.parametrize("dialect", [LIVEPEER, OPENAI], ids=lambda dialect: dialect.name)
def test_answers_and_chunks_are_what_the_document_says(
    document: dict[str, Any], dialect: Dialect
) -> None:
    deltas = [
        Delta("a", logprobs=(TokenLogprob("a", -1.0, [97]),)),
        Delta(reasoning="r"),
        Delta(tool_calls=(ToolCallDelta(0, "c1", "f", "{}"),)),
    ]
    finish, usage = Finish("tool_calls"), Usage(1, 2, estimated=True)
    request = GenerateRequest(model="m", messages=[], include_usage=True)
    encoder = dialect.encoder(Asked(request), id="chatcmpl-1", model="m", created=7)
    response = validator(document, "LLMResponse")
    response.validate(json.loads(encoder.answer(deltas, finish, usage)))
    for line in encoder.batch(deltas).split(b"\n\n")[:-1]:
        # The schema is that of whole answers, which require the usage: the last chunk has it.
        chunk = json.loads(line.removeprefix(b"data: "))
        response.validate(
            {**chunk, "usage": json.loads(encoder.answer([], finish, usage))["usage"]}
        )


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, True),
        ({"messages": []}, False),
        ({"messages": [{"role": "user", "content": "Hi"}], "frobnicate": 1}, False),
    ],
)
def test_the_request_schema_tells_good_from_bad(
    document: dict[str, Any], body: dict[str, Any], valid: bool
) -> None:
    assert validator(document, "LLMRequest").is_valid(body) is valid


@pytest.mark.parametrize(
    ("name", "body", "valid"),
    [
        ("EmbeddingsBody", {"input": "a"}, True),
        ("EmbeddingsBody", {"input": ["a", "b"], "dimensions": None}, True),
        ("EmbeddingsBody", {"input": [[1], [2]]}, True),
        ("EmbeddingsBody", {"input": ""}, False),
        ("EmbeddingsBody", {"input": [[1], ["a"]]}, False),
        ("EmbeddingsBody", {}, False),
        ("EmbeddingsBody", {"input": "a", "more": 1}, False),
        ("RerankBody", {"query": "q", "documents": ["a", {"text": "b"}]}, True),
        ("RerankBody", {"query": "q", "documents": []}, False),
        ("TokenizeBody", {"content": "a"}, True),
        ("DetokenizeBody", {"tokens": [-1]}, False),
    ],
)
def test_the_requests_of_other_tasks_are_described(
    document: dict[str, Any], name: str, body: Any, valid: bool
) -> None:
    assert validator(document, name).is_valid(body) is valid
