"""What a scripted engine says, in OpenAI's shape."""

import json

import pytest

from reverie.testing import ToolCall
from tests.testing.client import ask, chat, post
from tests.testing.conftest import StartEngine

FOX = ("The", " quick", " brown", " fox")


def assistant(text: str) -> list[dict]:
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]


async def test_a_plain_answer_is_one_json_body(start_engine: StartEngine) -> None:
    answer = await ask(await start_engine(cached_tokens=4))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["object"] == "chat.completion"
    assert answer.json["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world"},
            "finish_reason": "stop",
        }
    ]
    assert answer.json["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_a_stream_has_a_role_the_tokens_a_reason_and_done(start_engine: StartEngine) -> None:
    answer = await ask(await start_engine(), stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.deltas == [
        {"role": "assistant", "content": None},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert answer.reason == "stop"
    assert answer.payloads[-1] == "[DONE]"
    assert not any("usage" in chunk for chunk in answer.chunks)
    assert answer.whole


async def test_usage_comes_last_with_no_choices_when_asked_for(start_engine: StartEngine) -> None:
    answer = await ask(
        await start_engine(), stream=True, stream_options={"include_usage": True}, model="mine"
    )
    last = answer.chunks[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert {chunk["model"] for chunk in answer.chunks} == {"mine"}


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_can_be_withheld(start_engine: StartEngine, stream: bool) -> None:
    engine = await start_engine(usage=False)
    answer = await ask(engine, stream=stream, stream_options={"include_usage": True})
    assert b"usage" not in answer.body


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_answer_is_cut_at_max_tokens(start_engine: StartEngine, field: str) -> None:
    engine = await start_engine(tokens=FOX)
    answer = await ask(engine, **{field: 3})
    assert answer.json["choices"][0]["message"]["content"] == "The quick brown"
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] == 3
    answer = await ask(engine, stream=True, **{field: 4})
    assert (answer.text, answer.reason) == ("The quick brown fox", "stop")


async def test_tokens_may_depend_on_the_request(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=lambda body: (body["messages"][0]["content"], "!"))
    assert (await ask(engine, stream=True)).text == "Hi!"
    other = {**chat(stream=True), "messages": [{"role": "user", "content": "Ho"}]}
    assert (await ask(engine, post(other))).text == "Ho!"


@pytest.mark.parametrize("passed", range(5))
async def test_a_cut_answer_is_continued_and_its_text_counted_as_prompt(
    start_engine: StartEngine, passed: int
) -> None:
    engine = await start_engine(tokens=FOX, reasoning=())
    sofar = "".join(FOX[:passed])
    body = {
        "messages": assistant(sofar),
        "continue_final_message": True,
        "add_generation_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = await ask(engine, post(body))
    assert sofar + answer.text == "The quick brown fox"
    assert answer.usage["prompt_tokens"] == 10 + passed
    assert answer.usage["completion_tokens"] == 4 - passed


async def test_a_cut_inside_a_token_is_continued_inside_it(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=("Größe", " ist"))
    body = {"messages": assistant("Grö"), "continue_final_message": True, "stream": True}
    assert (await ask(engine, post(body))).text == "ße ist"


async def test_max_tokens_bounds_the_rest_of_a_continued_answer(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=FOX)
    body = {"messages": assistant("The"), "continue_final_message": True, "max_tokens": 2}
    choice = (await ask(engine, post(body))).json["choices"][0]
    assert choice["message"]["content"] == " quick brown"
    assert choice["finish_reason"] == "length"


async def test_a_text_that_was_never_said_is_not_continued(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=FOX)
    for wrong in ("A", "The quickest", "The quick brown fox jumps"):
        body = {"messages": assistant(wrong), "continue_final_message": True}
        answer = await ask(engine, post(body))
        assert answer.status == 400
        assert "continued" in answer.json["error"]["message"]


async def test_an_engine_that_cannot_continue_starts_anew(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=FOX, continues=False)
    body = {"messages": assistant("The"), "continue_final_message": True, "stream": True}
    assert (await ask(engine, post(body))).text == "The quick brown fox"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSON object"),
        (b"[]", "JSON object"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(continue_final_message=True), "assistant"),
        (
            {
                "messages": assistant("x"),
                "continue_final_message": True,
                "add_generation_prompt": True,
            },
            "exclude",
        ),
    ],
)
async def test_a_wrong_request_is_refused_as_an_engine_does(
    start_engine: StartEngine, body: object, message: str
) -> None:
    engine = await start_engine()
    answer = await ask(engine, post(body))
    assert answer.status == 400
    assert message in answer.json["error"]["message"]
    assert engine.requests[0].outcome == "refused"


async def test_reasoning_comes_first(start_engine: StartEngine) -> None:
    engine = await start_engine(reasoning=("Hm", "."))
    streamed = await ask(engine, stream=True, stream_options={"include_usage": True})
    assert streamed.deltas[1:4] == [
        {"reasoning_content": "Hm"},
        {"reasoning_content": "."},
        {"content": "Hello"},
    ]
    assert streamed.usage["completion_tokens"] == 4
    message = (await ask(engine)).json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hello world")


async def test_tool_calls_come_in_pieces(start_engine: StartEngine) -> None:
    calls = (
        ToolCall(name="weather", arguments=('{"city":', ' "Rome"}'), id="a"),
        ToolCall(name="time", id="b"),
    )
    engine = await start_engine(tokens=(), tool_calls=calls)
    streamed = await ask(engine, stream=True)
    pieces = [delta["tool_calls"][0] for delta in streamed.deltas if "tool_calls" in delta]
    assert pieces[0] == {
        "index": 0,
        "id": "a",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    }
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 1, 1]
    assert streamed.reason == "tool_calls"
    choice = (await ask(engine)).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city": "Rome"}'},
        {"name": "time", "arguments": "{}"},
    ]


async def test_logprobs_are_sent_when_asked_for(start_engine: StartEngine) -> None:
    engine = await start_engine()
    answer = await ask(engine, stream=True, logprobs=True, top_logprobs=2)
    entry = answer.chunks[1]["choices"][0]["logprobs"]["content"][0]
    assert entry["token"] == "Hello"
    assert entry["bytes"] == list(b"Hello")
    assert [top["token"] for top in entry["top_logprobs"]] == ["Hello", "other 1"]
    whole = (await ask(engine, logprobs=True)).json["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in whole] == ["Hello", " world"]
    assert b"logprobs" not in (await ask(engine)).body


async def test_bytes_are_written_raw_even_half_a_character(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=(b"5 \xe2\x82", b"\xac"))
    streamed = await ask(engine, stream=True, logprobs=True)
    assert b'"content":"5 \xe2\x82"' in streamed.body
    assert b'"content":"\xac"' in streamed.body
    assert (await ask(engine)).json["choices"][0]["message"]["content"] == "5 €"


async def test_half_a_surrogate_pair_is_escaped(start_engine: StartEngine) -> None:
    engine = await start_engine(tokens=("\ud83d", "\ude00"))
    streamed = await ask(engine, stream=True)
    assert b'"content":"\\ud83d"' in streamed.body
    assert (await ask(engine)).json["choices"][0]["message"]["content"] == "😀"


async def test_comments_line_ends_and_the_role_are_the_scripts_choice(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine(comments=True, crlf=True, role_chunk=False, finish_reason="eos")
    answer = await ask(engine, stream=True)
    events = answer.body.split(b"\r\n\r\n")[:-1]
    assert events[0::2] == [b": ping"] * 4
    assert b"\n" not in answer.body.replace(b"\r\n", b"")
    assert json.loads(events[1].removeprefix(b"data: "))["choices"][0]["delta"] == {
        "content": "Hello"
    }
    assert b'"finish_reason":"eos"' in events[5]
    assert events[-1] == b"data: [DONE]"


async def test_the_end_can_be_left_out(start_engine: StartEngine) -> None:
    answer = await ask(await start_engine(no_done=True), stream=True)
    assert (answer.reason, answer.payloads[-1] == "[DONE]") == ("stop", False)
    answer = await ask(await start_engine(no_finish=True), stream=True)
    assert (answer.reason, answer.payloads[-1]) == (None, "[DONE]")


async def test_a_stream_can_be_answered_with_one_json_body(start_engine: StartEngine) -> None:
    answer = await ask(await start_engine(force_json=True), stream=True)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["choices"][0]["message"]["content"] == "Hello world"


async def test_an_error_status_has_an_openai_error(start_engine: StartEngine) -> None:
    engine = await start_engine(status=503, retry_after=2, headers={"X-Thing": "1"})
    answer = await ask(engine, stream=True)
    assert answer.status == 503
    assert (answer.headers["retry-after"], answer.headers["x-thing"]) == ("2", "1")
    assert answer.json == {
        "error": {
            "message": "A scripted error.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
    assert engine.requests[0].outcome == "refused"


async def test_an_error_object_can_be_given_whole_or_in_part(start_engine: StartEngine) -> None:
    engine = await start_engine(status=400, error={"code": "context_length_exceeded"})
    error = (await ask(engine)).json["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    engine = await start_engine(error={"error": "just text"})
    answer = await ask(engine)
    assert (answer.status, answer.json) == (200, {"error": "just text"})


async def test_an_error_can_come_inside_the_stream(start_engine: StartEngine) -> None:
    engine = await start_engine(error_in_stream={"message": "boom", "code": 500}, error_after=1)
    answer = await ask(engine, stream=True)
    assert answer.status == 200
    assert json.loads(answer.payloads[-2])["error"]["message"] == "boom"
    assert (answer.payloads[-1], answer.whole) == ("[DONE]", True)
    assert (engine.requests[0].outcome, engine.requests[0].sent) == ("died", 1)


async def test_a_page_or_garbage_can_come_instead(start_engine: StartEngine) -> None:
    answer = await ask(await start_engine(html=True, status=502), stream=True)
    assert (answer.status, answer.headers["content-type"][:9]) == (502, "text/html")
    assert answer.body.startswith(b"<!DOCTYPE html>")
    engine = await start_engine(body=b"\x00\xff{", headers={"content-type": "text/event-stream"})
    answer = await ask(engine)
    assert (answer.body, answer.headers["content-type"]) == (b"\x00\xff{", "text/event-stream")
    assert (await ask(engine, stream=True)).body == b"\x00\xff{"
