"""Answers as Ollama's clients read them: JSON objects, one a line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reverie.errors import BackendError, ModelNotFound, Overloaded, ReverieError
from reverie.events import Delta, Finish, TokenLogprob, ToolCallDelta, Usage
from reverie.http.dialects import OLLAMA_CHAT, OLLAMA_GENERATE
from reverie.http.dialects.base import Asked
from reverie.http.dialects.ollama import OllamaEncoder
from reverie.request import GenerateRequest

USAGE = Usage(prompt_tokens=10, completion_tokens=2, cached_tokens=4)


class Clock:
    """Nanoseconds, of which each look takes ten."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 10
        return self.now


def encoder(*, chat: bool = True, **more: Any) -> OllamaEncoder:
    return OllamaEncoder(model="m:latest", created=1, chat=chat, clock=Clock(), **more)


def lines(written: bytes) -> list[dict[str, Any]]:
    assert written.endswith(b"\n")
    return [json.loads(line) for line in written.decode().splitlines()]


def stream(*batches: list[Delta], chat: bool = True, finish: str = "stop") -> list[dict[str, Any]]:
    writing = encoder(chat=chat)
    written = b"".join(writing.batch(batch) for batch in batches)
    return lines(written + writing.end(Finish(finish), USAGE))


def call(index: int, arguments: str, id: str | None = None, name: str | None = None) -> Delta:
    return Delta(tool_calls=(ToolCallDelta(index, id, name, arguments),))


def test_each_piece_is_a_line_and_the_last_tells_what_it_took() -> None:
    first, second, last = stream([Delta("Hel"), Delta("lo\u2028\u0085")], [])
    head = {"model": "m:latest", "created_at": "1970-01-01T00:00:01Z"}
    assert first == {
        **head,
        "message": {"role": "assistant", "content": "Hel"},
        "done": False,
    }
    assert second["message"]["content"] == "lo\u2028\u0085"
    assert last == {
        **head,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": 20,
        "load_duration": 0,
        "prompt_eval_count": 10,
        "prompt_eval_duration": 10,
        "eval_count": 2,
        "eval_duration": 10,
    }


def test_a_prompt_s_answer_is_a_response_in_place_of_a_message() -> None:
    first, second, last = stream([Delta(reasoning="Hm."), Delta("Hi")], chat=False)
    assert (first["response"], first["thinking"]) == ("", "Hm.")
    assert (second["response"], second["done"]) == ("Hi", False)
    assert "thinking" not in second
    assert (last["response"], last["done"]) == ("", True)
    assert not any("message" in line for line in (first, second, last))


def test_calls_go_out_whole_after_all_text_their_arguments_as_objects() -> None:
    thought, text, calls, last = stream(
        [Delta(reasoning="Hm."), call(0, '{"a"', "c0", "f"), call(1, "{", "c1", "g")],
        [call(0, ":1}"), Delta("Look."), call(1, "broken")],
        finish="tool_calls",
    )
    assert thought["message"] == {"role": "assistant", "content": "", "thinking": "Hm."}
    assert text["message"]["content"] == "Look."
    assert calls["message"]["tool_calls"] == [
        {"id": "c0", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
        {
            "id": "c1",
            "function": {"index": 1, "name": "g", "arguments": {"INVALID_JSON": "{broken"}},
        },
    ]
    assert calls["done"] is False
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert "tool_calls" not in last["message"]


def test_a_whole_answer_has_what_its_stream_has() -> None:
    deltas = [Delta(reasoning="Hm."), Delta("Hi"), Delta(refusal="No."), call(0, "", "c", "f")]
    whole = json.loads(encoder().answer(deltas, Finish("length"), USAGE))
    assert whole["message"] == {
        "role": "assistant",
        "content": "HiNo.",
        "thinking": "Hm.",
        "tool_calls": [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}],
    }
    assert (whole["done"], whole["done_reason"]) == (True, "length")
    assert (whole["prompt_eval_count"], whole["eval_count"]) == (10, 2)
    assert whole["eval_duration"] == whole["total_duration"] > 0


def test_logprobs_stand_beside_their_text_streamed_or_whole() -> None:
    delta = Delta("Hi", logprobs=(TokenLogprob("Hi", -0.5),))
    expected = [{"token": "Hi", "logprob": -0.5, "top_logprobs": []}]
    assert stream([delta])[0]["logprobs"] == expected
    whole = json.loads(encoder().answer([delta], Finish("stop"), USAGE))
    assert whole["logprobs"] == expected


def test_a_long_piece_is_cut_into_lines_that_clients_can_read() -> None:
    writing = encoder()
    written = writing.batch([Delta("\x1f" * 50_000), Delta(refusal="No.")])
    assert max(map(len, written.split(b"\n"))) < 65_536
    text = "".join(line["message"]["content"] for line in lines(written))
    assert text == "\x1f" * 50_000 + "No."


def test_an_answer_without_a_token_is_one_line() -> None:
    (last,) = stream()
    assert (last["done"], last["message"]["content"]) == (True, "")


@pytest.mark.parametrize("chat", [True, False])
def test_a_broken_stream_ends_with_an_error_and_never_done(chat: bool) -> None:
    writing = encoder(chat=chat)
    written = lines(writing.batch([Delta("Hal")]) + writing.error(BackendError("It died.")))
    assert written[-1] == {"error": "It died."}
    assert not any(line.get("done") for line in written)


@pytest.mark.parametrize("move", ["load", "unload"])
def test_a_model_that_was_moved_is_told_in_one_object(move: Any) -> None:
    streamed = encoder(move=move).moved(stream=True)
    whole = encoder(move=move).moved(stream=False)
    assert streamed == whole + b"\n"
    told = json.loads(whole)
    assert (told["done"], told["done_reason"]) == (True, move)
    assert told["message"] == {"role": "assistant", "content": ""}
    assert told["load_duration"] == told["total_duration"] > 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelNotFound("No."), 404),
        (Overloaded("No."), 503),
        (BackendError("No."), 502),
    ],
)
def test_an_error_is_one_text(error: ReverieError, status: int) -> None:
    assert OLLAMA_CHAT.status(error) == status
    assert json.loads(OLLAMA_CHAT.error_body(error)) == {"error": "No."}


def test_silence_is_bridged_by_an_empty_piece_of_the_same_shape() -> None:
    assert json.loads(OLLAMA_CHAT.ping) == {
        "message": {"role": "assistant", "content": ""},
        "done": False,
    }
    assert json.loads(OLLAMA_GENERATE.ping) == {"response": "", "done": False}
    assert OLLAMA_CHAT.ping.endswith(b"}\n")


def test_the_model_is_named_as_it_was_asked_for() -> None:
    def named(asked: str) -> str:
        request = GenerateRequest(model=asked, messages=[{"role": "user", "content": "Hi"}])
        writing = OLLAMA_CHAT.encoder(
            Asked(request, echo={"done_reason": None}), id="1", model="m", created=1
        )
        model: str = lines(writing.end(Finish("stop"), USAGE))[0]["model"]
        return model

    assert (named("alias:latest"), named("")) == ("alias:latest", "m")
