"""What engines say when they refuse becomes the right error, without their words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from reverie.backends.decoding.refusals import refusal, refusal_in_stream
from reverie.errors import (
    BackendError,
    BackendTimeout,
    ContextLengthExceeded,
    EngineMemoryFull,
    ModelLoading,
    Overloaded,
    RefusedByBackend,
    ReverieError,
)
from reverie.request import GenerateRequest

Ask = Callable[..., GenerateRequest]

SECRET = "the user's words"


def refuse(
    request: GenerateRequest, status: int, error: Any = SECRET, retry_after: str | None = None
) -> ReverieError:
    body = error if isinstance(error, bytes) else json.dumps({"error": error}).encode()
    headers = {"Retry-After": retry_after} if retry_after is not None else {}
    result = refusal(status, headers, body, request)
    assert SECRET not in result.message
    assert SECRET not in getattr(result, "reason", "")
    return result


OVERFLOWS = [
    # llama.cpp
    {
        "code": 400,
        "message": "request (9031 tokens) exceeds the available context size (8192 tokens), try "
        "increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 9031,
        "n_ctx": 8192,
    },
    # OpenAI, and vLLM after it
    {
        "message": "This model's maximum context length is 8192 tokens. However, your messages "
        "resulted in 9031 tokens. Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    },
    {
        "message": "This model's maximum context length is 8192 tokens. However, you requested "
        "9287 tokens (9031 in the messages, 256 in the completion).",
        "type": "BadRequestError",
        "code": 400,
    },
    {
        "message": "This model's maximum context length is 8192 tokens. However, you requested "
        "256 output tokens and your prompt contains at least 9031 input tokens.",
        "code": 400,
    },
    {
        "message": "The decoder prompt (length 9031) is longer than the maximum model length of "
        "8192. Make sure that `max_model_len` is no smaller.",
        "code": 400,
    },
    {
        "message": "This model's maximum context length is 8192 tokens. However, you requested "
        "9287 tokens.",
    },
    # SGLang
    {
        "message": "The input (9031 tokens) is longer than the model's context length "
        "(8192 tokens).",
    },
    {
        "message": "Requested token count exceeds the model's maximum context length of 8192 "
        "tokens. You requested a total of 9287 tokens: 9031 tokens from the input messages and "
        "256 tokens for the completion.",
    },
]


@pytest.mark.parametrize("error", OVERFLOWS)
def test_an_overflow_names_both_numbers(ask: Ask, error: dict[str, Any]) -> None:
    result = refuse(ask(), 400, error)
    assert isinstance(result, ContextLengthExceeded)
    assert result.message == (  # OpenAI's words, which clients look for
        "This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "9031 tokens. Please reduce the length of the messages."
    )
    assert result.param == "messages"


def test_an_overflow_by_max_tokens_is_told_as_such(ask: Ask) -> None:
    text = (
        "This model's maximum context length is 8192 tokens. However, you requested 8200 tokens "
        "(200 in the messages, 8000 in the completion)."
    )
    result = refuse(ask(max_tokens=8000), 400, {"message": text})
    assert isinstance(result, ContextLengthExceeded)
    assert result.param == "max_tokens"
    assert result.message == (
        "This model's maximum context length is 8192 tokens. However, you requested 8200 tokens "
        "(200 in the messages, 8000 in the completion). Please reduce the length of the messages, "
        "or lower max_tokens."
    )
    assert refuse(ask(max_tokens=8000), 400, {"message": result.message}).message == result.message


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": SECRET},
        {"message": "the input length exceeds the context length"},
        {"message": "the prompt is 9031 tokens long: context length exceeded"},
        {"message": "the prompt exceeds the maximum context: context size is 8192"},
    ],
)
def test_an_overflow_without_all_numbers(ask: Ask, error: dict[str, Any]) -> None:
    result = refuse(ask(), 400, error)
    assert isinstance(result, ContextLengthExceeded)
    assert "maximum context length is" in result.message
    assert "reduce the length of the messages" in result.message


@pytest.mark.parametrize("odd", [{}, [], {"a": 1}, ["context_length_exceeded"]])
def test_an_error_whose_type_or_code_is_no_word_is_the_engines_all_the_same(
    ask: Ask, odd: Any
) -> None:
    for error in ({"type": odd, "message": "no"}, {"code": odd, "message": "no"}):
        assert type(refusal_in_stream(error, ask(), started=False)) is BackendError
        assert type(refuse(ask(), 400, error)) is RefusedByBackend


@pytest.mark.parametrize("said", ["maximum context length is {}", "context length exceeded: ({}"])
def test_a_number_that_can_not_be_is_no_failure_of_ours(ask: Ask, said: str) -> None:
    error = {"message": said.format("9" * 5000) + " tokens from the input"}
    assert isinstance(refuse(ask(), 400, error), ContextLengthExceeded)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("error", [SECRET, {"message": SECRET}, b"<html>", b"", b"[1]", b"7"])
def test_a_refused_request_is_the_clients_to_change(ask: Ask, status: int, error: Any) -> None:
    assert isinstance(refuse(ask(), status, error), RefusedByBackend)


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({}, SECRET, None),
        ({"response_format": {"type": "json_schema"}}, "JSON schema error at #", "response_format"),
        ({"response_format": {"type": "text"}}, SECRET, None),
        ({"tools": [{}]}, "JSON schema error at #", "tools"),
        ({}, "Conversation roles must alternate user/assistant", "messages"),
        ({}, "Chat template error", "messages"),
    ],
)
def test_a_refusal_names_the_likely_field(
    ask: Ask, fields: dict[str, Any], message: str, param: str | None
) -> None:
    assert refuse(ask(**fields), 400, {"message": message}).param == param


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize(
    "message",
    [
        "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101]",
        "Cannot continue an assistant message that contains tool calls.",
        "Cannot have 2 or more assistant messages at the end of the list.",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Jinja Exception: Only user and assistant roles are supported!",
        "Chat template error",
        "After the optional system message, conversation roles must alternate",
        "Unable to generate parser for this template. Automatic parser generation failed",
    ],
)
def test_messages_that_can_not_be_made_a_prompt_are_the_clients_to_change(
    ask: Ask, status: int, message: str
) -> None:
    result = refuse(ask(tools=[{}]), status, {"message": message})
    assert isinstance(result, RefusedByBackend)
    assert result.param == "messages"


@pytest.mark.parametrize("message", [SECRET, "CUDA error: out of memory", ""])
def test_any_other_500_is_the_engines_failure(ask: Ask, message: str) -> None:
    result = refuse(ask(), 500, {"message": message})
    assert isinstance(result, BackendError)
    assert message in result.said
    assert SECRET not in result.message + result.reason


@pytest.mark.parametrize("status", [200, 500])
def test_a_full_memory_is_no_failure_and_no_fault_of_the_clients(ask: Ask, status: int) -> None:
    error = {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}
    if status == 200:
        result = refusal_in_stream(error, ask(), started=True)
    else:
        result = refuse(ask(), 500, error)
    assert isinstance(result, EngineMemoryFull)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": SECRET, "param": "top_k"}},
        {"detail": [{"loc": ["body", "top_k"], "msg": SECRET, "type": "int_parsing"}]},
    ],
)
def test_a_refusal_names_the_field_that_the_engine_names(ask: Ask, body: dict[str, Any]) -> None:
    result = refuse(ask(), 422, json.dumps(body).encode())
    assert isinstance(result, RefusedByBackend)
    assert result.param == "top_k"
    assert "top_k" in result.message


@pytest.mark.parametrize("loc", [["body", SECRET], ["body"], [], None, ["body", 3]])
def test_a_field_that_no_request_has_is_not_named(ask: Ask, loc: Any) -> None:
    body = json.dumps({"detail": [{"loc": loc, "msg": SECRET}]}).encode()
    assert refuse(ask(), 422, body).param is None


@pytest.mark.parametrize(
    "body",
    [
        {"detail": {"msg": "pipeline configured with secret but called with m"}},
        {"detail": {"msg": SECRET}, "error": {"message": SECRET, "code": "model_not_found"}},
    ],
)
def test_a_model_that_is_not_served_there_is_no_fault_of_the_client(
    ask: Ask, body: dict[str, Any]
) -> None:
    result = refuse(ask(), 400, json.dumps(body).encode())
    assert type(result) is BackendError
    assert "does not serve this model" in result.message


def test_livepeers_way_to_say_it_is_read(ask: Ask) -> None:
    body = {"detail": {"msg": "Input sequence length (9031) exceeds maximum allowed (8192)"}}
    result = refuse(ask(), 500, json.dumps(body).encode())
    assert isinstance(result, ContextLengthExceeded)
    assert "9031" in result.message
    assert "8192" in result.message


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (301, BackendError),
        (204, BackendError),
        (401, BackendError),
        (403, BackendError),
        (404, BackendError),
        (408, BackendTimeout),
        (429, Overloaded),
        (500, BackendError),
        (502, BackendError),
        (503, Overloaded),
        (504, BackendTimeout),
        (529, BackendError),
    ],
)
def test_other_statuses(ask: Ask, status: int, error_class: type[ReverieError]) -> None:
    result = refuse(ask(), status, {"message": SECRET, "type": "x", "code": "y"})
    assert type(result) is error_class
    if isinstance(result, BackendError):
        assert result.reason == f"HTTP {status}, type x, code y"


def test_refused_credentials_are_said_to_be_this_gateways(ask: Ask) -> None:
    assert "this gateway's credentials" in refuse(ask(), 401).message


def test_a_loading_model_is_told_from_an_overload(ask: Ask) -> None:
    error = {"message": "Loading model", "type": "unavailable_error", "code": 503}
    result = refuse(ask(), 503, error)
    assert isinstance(result, ModelLoading)
    assert result.retry_after
    assert isinstance(refuse(ask(), 503, {"code": "model_loading"}), ModelLoading)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("-3", 1),
        ("1e9", 3600),
        ("inf", 3600),
        ("nan", 1),
        ("soon", 1),
        (None, 1),
    ],
)
def test_retry_after_is_passed_on_within_bounds(
    ask: Ask, status: int, header: str | None, seconds: float
) -> None:
    assert refuse(ask(), status, retry_after=header).retry_after == seconds


def test_retry_after_may_be_a_date(ask: Ask) -> None:
    later = formatdate(time.time() + 1000, usegmt=True)
    retry_after = refuse(ask(), 429, retry_after=later).retry_after
    assert retry_after is not None
    assert 900 < retry_after <= 1000


def test_an_error_in_a_stream_is_the_backends(ask: Ask) -> None:
    result = refusal_in_stream({"message": SECRET, "type": "t"}, ask(), started=True)
    assert type(result) is BackendError
    assert result.reason == "error in the stream, type t"


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        ({"type": "server_error", "code": 500, "message": SECRET}, "type server_error, code 500"),
        ({"type": f"your prompt: {SECRET}", "code": None}, "no type given"),
        ({"object": "error", "message": SECRET, "type": "BadRequest"}, "type BadRequest"),
        (SECRET, "no type given"),
    ],
)
def test_only_identifiers_of_an_error_go_into_the_log(ask: Ask, error: Any, logged: str) -> None:
    result = refusal_in_stream(error, ask(), started=True)
    assert isinstance(result, BackendError)
    assert result.reason == f"error in the stream, {logged}"


def test_an_overflow_may_be_reported_in_the_stream(ask: Ask) -> None:
    error = OVERFLOWS[0]
    assert isinstance(refusal_in_stream(error, ask(), started=False), ContextLengthExceeded)
    assert type(refusal_in_stream(error, ask(), started=True)) is BackendError
