"""Answers as OpenAI's clients read them: their own SDK follows each stream."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from reverie.errors import (
    AnswerCancelled,
    BackendError,
    ContextLengthExceeded,
    InsufficientQuota,
    ReverieError,
    UnsupportedParameter,
)
from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, Usage
from reverie.gateway.accounts.kept_answers import Claim
from reverie.http.dialects import OPENAI, RESPONSES
from reverie.http.dialects.base import Asked, Encoder
from reverie.http.dialects.responses import ResponsesEncoder, place_of
from reverie.request import GenerateRequest

USAGE = Usage(
    prompt_tokens=10,
    completion_tokens=5,
    cached_tokens=4,
    completion_details={"reasoning_tokens": 2},
)
ECHO = {
    "fields": b',"parallel_tool_calls":true,"tool_choice":"auto","tools":[],"metadata":{"a":"b"}',
    "summary": False,
}


@pytest.fixture(autouse=True)
def _platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK starts a process to tell what machine this is."""
    monkeypatch.setattr("platform.platform", lambda: "any")


def encoder() -> Encoder:
    request = GenerateRequest(model="m", messages=[{"role": "user", "content": "Hi"}])
    return RESPONSES.encoder(Asked(request, echo=ECHO), id="resp_1", model="m", created=7)


def stream(*batches: list[Delta], finish: str = "stop") -> bytes:
    writing = encoder()
    written = b"".join(writing.batch(batch) for batch in batches)
    return written + writing.end(Finish(finish), USAGE)


def events(written: bytes) -> list[dict[str, Any]]:
    found = []
    for event in written.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert found[-1]["type"] == name.removeprefix("event: ")
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def understood(written: bytes) -> Any:
    """What OpenAI's SDK makes of a stream."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=written, headers={"content-type": "text/event-stream"})

    with (
        openai.OpenAI(
            api_key="k",
            base_url="http://reverie.test",
            http_client=httpx.Client(transport=httpx.MockTransport(answer)),
            max_retries=0,
        ) as client,
        client.responses.stream(model="m", input="Hi") as following,
    ):
        return following.get_final_response()


def piece(index: int, arguments: str, **first: str) -> Delta:
    return Delta(tool_calls=(ToolCallDelta(index, arguments=arguments, **first),))


def test_a_text_is_one_part_of_one_message() -> None:
    written = stream([Delta("Hel"), Delta("lo")], [Delta(" world")])
    assert [event["type"].removeprefix("response.") for event in events(written)] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = understood(written)
    assert response.output_text == "Hello world"
    assert (response.id, response.status, response.created_at) == ("resp_1", "completed", 7.0)
    assert response.metadata == {"a": "b"}
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert response.usage.to_dict() == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }


def test_reasoning_text_a_refusal_and_calls_follow_each_other() -> None:
    written = stream(
        [Delta(reasoning="Hm"), Delta(reasoning="m.")],
        [Delta("Let me look."), Delta(refusal="No.")],
        [piece(0, '{"a":', id="call_1", name="f")],
        [piece(0, "1}"), piece(1, "", id="call_2", name="g")],
        finish="tool_calls",
    )
    response = understood(written)
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    reasoning, message, first, second = response.output
    assert reasoning.content[0].text == "Hmm."
    assert reasoning.summary == []
    assert [part.type for part in message.content] == ["output_text", "refusal"]
    assert message.content[1].refusal == "No."
    assert (first.call_id, first.name, first.arguments) == ("call_1", "f", '{"a":1}')
    assert (second.call_id, second.name, second.arguments) == ("call_2", "g", "")
    assert response.status == "completed"


@pytest.mark.parametrize("streamed", [False, True])
def test_who_asks_for_a_summary_is_given_the_reasoning_as_such(streamed: bool) -> None:
    deltas = [Delta(reasoning="Hm"), Delta(reasoning="m."), Delta("Yes.")]
    request = GenerateRequest(model="m", messages=[])
    asked = Asked(request, echo={**ECHO, "summary": True})
    writing = RESPONSES.encoder(asked, id="resp_1", model="m", created=7)
    if streamed:
        written = writing.batch(deltas) + writing.end(Finish("stop"), USAGE)
        names = [event["type"] for event in events(written)]
        assert names[3:8] == [
            "response.reasoning_summary_part.added",
            *["response.reasoning_summary_text.delta"] * 2,
            "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done",
        ]
        assert events(written)[4]["summary_index"] == 0
        answer = understood(written).to_dict()
    else:
        answer = json.loads(writing.answer(deltas, Finish("stop"), USAGE))
    reasoning = answer["output"][0]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hmm."}]
    assert reasoning["content"] == []


def test_whatever_is_opened_is_closed_once_with_all_that_it_was_given() -> None:
    written = stream(
        [Delta(reasoning="a"), Delta("b"), piece(0, '{"x"', id="c0", name="f")],
        [piece(1, '{"y"', id="c1", name="g"), piece(0, ":0}"), Delta("c"), piece(1, ":1}")],
        [Delta(reasoning="d"), Delta(refusal="e")],
        finish="tool_calls",
    )
    open_: dict[str, str] = {}
    closed: set[str] = set()
    indices: list[int] = []
    for event in events(written):
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            indices.append(event["output_index"])
            open_[event["item"]["id"]] = ""
        elif kind.endswith(".delta"):
            assert event["item_id"] not in closed
            open_[event["item_id"]] += event["delta"]
        elif kind == "output_item.done":
            item = event["item"]
            closed.add(item["id"])
            whole = item.get("arguments") or "".join(
                part.get("text", "") + part.get("refusal", "") for part in item["content"]
            )
            assert open_.pop(item["id"]) == whole
            assert item["status"] == "completed"
    assert open_ == {}
    assert indices == list(range(7))
    kinds = [item.type for item in understood(written).output]
    assert kinds == [
        "reasoning",
        "message",
        *["function_call"] * 2,
        "message",
        "reasoning",
        "message",
    ]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_says_so(finish: str, reason: str) -> None:
    last = events(stream([Delta("Hel")], finish=finish))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": reason}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_an_answer_without_text_is_complete() -> None:
    response = understood(stream())
    assert (response.status, response.output, response.output_text) == ("completed", [], "")


def test_logprobs_stand_beside_their_text() -> None:
    entry = TokenLogprob("Hi", -0.5, [72, 105], [TokenLogprob("Hi", -0.5)])
    written = stream([Delta("Hi", logprobs=(entry,))])
    (delta,) = [one for one in events(written) if one["type"].endswith("text.delta")]
    assert delta["logprobs"][0]["token"] == "Hi"
    part = understood(written).output[0].content[0]
    assert (part.logprobs[0].logprob, part.logprobs[0].top_logprobs[0].token) == (-0.5, "Hi")


def test_a_whole_answer_is_what_the_stream_ends_with() -> None:
    batches = [
        [Delta(reasoning="Hm"), Delta("Let me"), Delta(" look.")],
        [piece(0, '{"a":', id="call_1", name="f"), piece(0, "1}")],
    ]
    streamed = events(stream(*batches, finish="tool_calls"))[-1]["response"]
    deltas = [delta for batch in batches for delta in batch]
    whole = json.loads(encoder().answer(deltas, Finish("tool_calls"), USAGE))
    assert {**whole, "completed_at": 0} == {**streamed, "completed_at": 0}


def test_large_pieces_are_cut_into_small_events() -> None:
    deltas = [one for one in events(stream([Delta("x" * 20_000)])) if "delta" in one]
    assert [len(one["delta"]) for one in deltas] == [8192, 8192, 3616]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BackendError("It broke.", reason="secret"), "failed", "server_error"),
        (UnsupportedParameter("No.", param="x"), "failed", "invalid_prompt"),
        (AnswerCancelled(), "cancelled", "server_error"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_breaks_ends_in_a_failed_response(
    error: ReverieError, status: str, code: str, begun: bool
) -> None:
    writing = encoder()
    written = writing.batch([Delta("Hel")]) if begun else b""
    failed = events(written + writing.error(error))
    assert failed[0]["type"] == "response.created"
    assert failed[-1]["type"] == "response.failed"
    response = failed[-1]["response"]
    assert (response["status"], response["error"]["code"]) == (status, code)
    assert response["error"]["message"] == error.message
    assert [item["status"] for item in response["output"]] == ["incomplete"] * begun


def test_several_readers_are_told_the_same_error() -> None:
    writing = encoder()
    error = InsufficientQuota("No money.", retry_after=1)
    assert writing.error(error) == writing.error(error)


def test_errors_before_the_answer_are_openai_s() -> None:
    error = UnsupportedParameter("No.", param="x")
    assert RESPONSES.status(error) == OPENAI.status(error)
    assert RESPONSES.error_body(error) == OPENAI.error_body(error)


def test_a_snapshot_has_what_there_is() -> None:
    writing = encoder()
    writing.batch([Delta("Hel")])
    assert isinstance(writing, ResponsesEncoder)
    snapshot = json.loads(writing.snapshot("in_progress"))
    assert snapshot["status"] == "in_progress"
    assert snapshot["output"][0]["content"][0]["text"] == "Hel"
    assert snapshot["usage"] is None


@pytest.mark.parametrize("key", ["a", "retry/7+?", "resp_k", "~" * 255])
def test_an_id_leads_to_its_key_and_proves_what_was_asked(key: str) -> None:
    id = RESPONSES.new_id(Claim(key, b"f" * 32))
    assert id.startswith("resp_")
    assert place_of(id) == (key, b"f" * 16)


def test_an_id_of_the_gateway_s_own_is_its_key() -> None:
    id = RESPONSES.new_id(None)
    assert RESPONSES.new_id(Claim(id, b"f" * 32)) == id
    assert place_of(id) == (id, b"")


@pytest.mark.parametrize(
    "id", ["", "chatcmpl-1", "resp_k!", "resp_k_w", "resp_kYWJj", f"resp_kabcde{'0' * 32}"]
)
def test_what_is_no_id_leads_nowhere(id: str) -> None:
    assert place_of(id) is None


def test_an_error_of_the_prompt_names_this_dialect_s_field() -> None:
    body = json.loads(RESPONSES.error_body(ContextLengthExceeded(9, 8)))
    assert body["error"]["param"] == "input"
