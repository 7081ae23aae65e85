"""Reverie as a Livepeer orchestrator's external container: each call that go-livepeer makes.

The calls and the shapes are those of its ``ai/worker``: ``container.go`` waits for the container
and asks what it is, ``worker.go`` generates, ``runner.gen.go`` parses. What Go would take for an
empty value is held to be there: a field that is missing is a mistake here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import msgspec
import pytest
from msgspec import Struct

Shape = TypeVar("Shape")

KEY = "contract-key-one"
MODEL = "smollm2-135m"
SCANNER_LIMIT = 64 * 1024
"""Bytes of a line, beyond which Go's ``bufio.Scanner`` gives up."""
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France? Answer in English."},
]


class HealthCheck(Struct):
    status: Literal["OK", "IDLE", "LOADING", "ERROR"]


class Gpu(Struct):
    id: str
    name: str
    memory_total: int
    memory_free: int
    major: int
    minor: int


class HardwareInformation(Struct):
    pipeline: str
    model_id: str
    gpu_info: dict[str, Gpu]


class Version(Struct):
    pipeline: str
    model_id: str
    version: str


class Message(Struct):
    role: str
    content: str


class Choice(Struct):
    index: int
    finish_reason: str | None = None
    delta: Message | None = None
    message: Message | None = None


class TokenUsage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LLMResponse(Struct):
    id: str
    model: str
    created: int
    usage: TokenUsage
    choices: list[Choice]


class Chunk(Struct):
    """An ``LLMResponse`` whose usage comes with the last one only."""

    id: str
    model: str
    created: int
    choices: list[Choice]
    usage: TokenUsage | None = None


class ApiError(Struct):
    msg: str


class HttpError(Struct):
    detail: ApiError


class ValidationError(Struct):
    loc: list[str | int]
    msg: str
    type: str


class HttpValidationError(Struct):
    detail: list[ValidationError]


@pytest.fixture(params=["", "/"])
def endpoint(keyed, request: pytest.FixtureRequest) -> str:
    """``url`` of an entry in ``aiModels.json``."""
    return keyed.url + str(request.param)


def call(endpoint: str, path: str, body: Any = None, token: str = KEY) -> httpx.Response:
    """A call of the generated client: below the URL, always with the entry's ``token``."""
    return httpx.request(
        "GET" if body is None else "POST",
        f"{endpoint.rstrip('/')}/{path}",
        headers={"Authorization": f"Bearer {token}"},
        json=body,
        timeout=60,
    )


def parse(response: httpx.Response, status: int, shape: type[Shape]) -> Shape:
    """What the generated client parses: JSON that says so, by its status."""
    assert response.status_code == status, response.text
    assert "json" in response.headers["content-type"]
    return msgspec.json.decode(response.content, type=shape)


def ask(**more: Any) -> dict[str, Any]:
    """``GenLLMJSONRequestBody``, as a gateway sends it on."""
    fields = {"messages": QUESTION, "model": MODEL, "max_tokens": 20, "stream": False}
    return {**fields, "temperature": 0, "top_p": 1, "top_k": -1, **more}


def scan(response: httpx.Response) -> Iterator[str]:
    """The lines, as ``handleStreamingResponse`` scans them."""
    for line in response.content.split(b"\n"):
        assert len(line) < SCANNER_LIMIT
        data = line.decode().removeprefix("data: ")
        if data and data != "[DONE]":
            yield data


def test_the_container_becomes_ready_and_says_what_it_is(endpoint: str) -> None:
    assert parse(call(endpoint, "health"), 200, HealthCheck).status == "OK"
    hardware = parse(call(endpoint, "hardware/info"), 200, HardwareInformation)
    assert (hardware.pipeline, hardware.model_id) == ("llm", MODEL)
    version = parse(call(endpoint, "version"), 200, Version)
    assert (version.pipeline, version.model_id) == ("llm", MODEL)
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", version.version), "semver, or it is ignored"


def test_an_answer(endpoint: str) -> None:
    answer = parse(call(endpoint, "llm", ask()), 200, LLMResponse)
    (choice,) = answer.choices
    assert choice.message is not None
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage.total_tokens > answer.usage.completion_tokens > 0


def test_a_stream(endpoint: str) -> None:
    response = call(endpoint, "llm", ask(stream=True))
    assert response.status_code == 200
    chunks = [msgspec.json.decode(data, type=Chunk) for data in scan(response)]
    text = ""
    for chunk in chunks:
        choice = chunk.choices[0]  # which orchestrator and gateway read without a look
        assert choice.delta is not None
        text += choice.delta.content
        if choice.finish_reason:  # and there they stop
            break
    assert "Paris" in text
    assert chunk is chunks[-1]
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens > 0


@pytest.mark.parametrize("stream", [True, False])
def test_errors_are_parsed(endpoint: str, stream: bool) -> None:
    wrong_model = call(endpoint, "llm", ask(model="another", stream=stream))
    assert parse(wrong_model, 400, HttpError).detail.msg
    wrong_key = call(endpoint, "llm", ask(stream=stream), token="wrong")
    assert parse(wrong_key, 401, HttpError).detail.msg
    wrong_field = call(endpoint, "llm", ask(temperature=9, stream=stream))
    (mistake,) = parse(wrong_field, 422, HttpValidationError).detail
    assert mistake.loc == ["body", "temperature"]


def test_an_orchestrators_file_is_served_as_it_is(keyed, serve, tmp_path: Path) -> None:
    """The file that makes an orchestrator reach one Reverie makes another Reverie reach it."""
    entry = {"pipeline": "llm", "model_id": MODEL, "url": keyed.url, "token": KEY, "capacity": 2}
    others = {"pipeline": "text-to-image", "model_id": "x", "warm": True}
    (tmp_path / "aiModels.json").write_text(json.dumps([others, entry]))
    with serve("--ai-models", "aiModels.json", cwd=tmp_path) as front:
        response = call(front.url, "llm", ask())
    answer = parse(response, 200, LLMResponse)
    assert answer.choices[0].message is not None
    assert "Paris" in answer.choices[0].message.content
    (warning,) = [line for line in front.errors if "part of --ai-models has no effect" in line]
    assert 'remark="aiModels.json: [0].pipeline: ' in warning
    assert KEY not in "".join(front.errors)
