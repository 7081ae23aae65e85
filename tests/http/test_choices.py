"""Answers with several choices, and completions of prompts; over a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reverie.store import usage
from reverie.store.database.engine import Store
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat, store_of_servers

CHAT = "/v1/chat/completions"
PATH = "/v1/completions"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_of_servers(tmp_path)


def chunks(written: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in written.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def stream(gateway: Gateway, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with gateway.http.post(gateway.url + path, json=body) as response:
        assert response.status == 200
        return chunks(await response.text())


def rows(store: Store) -> list[tuple[int, int, int]]:
    with store.read() as connection:
        return [
            (row.prompt_tokens, row.completion_tokens, row.cached_tokens)
            for row in connection.execute(usage.schema.ledger.select())
        ]


async def test_each_choice_is_an_answer_and_the_prompt_is_counted_once(
    engine: ScriptedEngine, gateway: Gateway, store: Store
) -> None:
    status, answer, _ = await gateway.post(chat(n=3), CHAT)
    assert status == 200
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"Hello world"}
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (10, 6)
    assert engine.generations == 3
    assert rows(store) == [(10, 6, 0)]


async def test_choices_are_streamed_by_their_index(gateway: Gateway, store: Store) -> None:
    got = await stream(gateway, CHAT, chat(n=2))
    assert len({chunk["id"] for chunk in got}) == 1
    *pieces, last = got
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    for index in (0, 1):
        mine = [c["choices"][0] for c in pieces if c["choices"][0]["index"] == index]
        assert "".join(one["delta"].get("content", "") for one in mine) == "Hello world"
        assert [one["finish_reason"] for one in mine] == [None] * (len(mine) - 1) + ["stop"]
    assert rows(store) == [(10, 4, 0)]


async def test_each_choice_has_a_seed_of_its_own(engine: ScriptedEngine, gateway: Gateway) -> None:
    await gateway.post(chat(n=3, seed=7), CHAT)
    seeds = [request.body["seed"] for request in engine.requests]  # type: ignore[index]
    assert len(set(seeds)) == 3
    assert 7 in seeds


async def test_a_choice_that_fails_ends_them_all_and_frees_every_slot(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.scripts += [Script(tokens=["a"] * 500, delay=0.01)] * 2
    engine.script = Script(status=400, error={"message": "no"})
    status, answer, _ = await gateway.post(chat(n=3, max_tokens=400), CHAT)
    assert status == 400
    assert answer["error"]["code"] == "invalid_request"
    assert gateway.pool().in_flight == 0


@pytest.mark.parametrize("server", [{"queue_timeout": 0.2}, {"queue_size": 2}])
async def test_its_own_choices_are_no_crowd(
    engine: ScriptedEngine, start_gateway: StartGateway, server: dict[str, Any]
) -> None:
    engine.script = Script(tokens=["a"] * 10, delay=0.02)
    backend = {"url": engine.url, "slots": 1}
    gateway = await start_gateway(models=[{"name": "m", "backends": [backend]}], server=server)
    status, answer, _ = await gateway.post(chat(n=6), CHAT)
    assert status == 200
    assert len(answer["choices"]) == 6


async def test_where_requests_at_once_are_limited_choices_come_one_by_one(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    most = 0

    def tokens(_: Any) -> list[str]:
        nonlocal most
        most = max(most, engine.in_flight)
        return ["a"] * 5

    engine.script = Script(tokens=tokens, delay=0.01)
    backend = {"url": engine.url, "slots": 8}
    for limits, at_once in (({"concurrency": 1}, 1), ({}, 4)):
        most = 0
        gateway = await start_gateway(
            models=[{"name": "m", "limits": limits, "backends": [backend]}]
        )
        await gateway.post(chat(n=8), CHAT)
        assert most == at_once


async def test_a_prompt_of_several_choices_is_counted_once(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    bodies: list[Any] = []
    engine.count = lambda body: bodies.append(body) or 7  # type: ignore[func-returns-value]
    backend = {"url": engine.url, "kind": "vllm"}
    gateway = await start_gateway(
        models=[{"name": "m", "limits": {"tpm": 10_000}, "backends": [backend]}]
    )
    assert (await gateway.post(chat("x" * 900, n=5), CHAT))[0] == 200
    assert len(bodies) == 1
    for _ in range(2):
        assert (await gateway.post({"prompt": "x" * 900, "n": 5}, PATH))[0] == 200
    assert [request.path for request in engine.requests].count("/tokenize") == 1


async def test_a_limit_counts_what_all_choices_may_come_to(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    limits = {"tpm": 400}
    gateway = await start_gateway(
        models=[{"name": "m", "limits": limits, "backends": [{"url": engine.url}]}]
    )
    assert (await gateway.post(chat(max_tokens=100), CHAT))[0] == 200
    status, answer, _ = await gateway.post(chat(max_tokens=100, n=4), CHAT)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat(n=17), "n"),
        (CHAT, chat(n=0), "n"),
        ("/llm", chat(n=2), "n"),
        (PATH, {"prompt": ["a"] * 9, "n": 2}, "n"),
    ],
)
async def test_how_many_there_may_be(
    gateway: Gateway, path: str, body: dict[str, Any], param: str
) -> None:
    status, answer, _ = await gateway.post(body, path)
    assert status in (400, 422)
    assert answer["error"]["param"] == param


async def test_choices_are_kept_under_an_idempotency_key(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    headers = {"Idempotency-Key": "once"}
    _, first, _ = await gateway.post(chat(n=2), CHAT, headers)
    _, again, told = await gateway.post(chat(n=2), CHAT, headers)
    assert (again, told["idempotent-replayed"]) == (first, "true")
    assert engine.generations == 2


# Completions --------------------------------------------------------------------------------


async def test_a_prompt_is_gone_on_with_as_it_is(
    engine: ScriptedEngine, gateway: Gateway, store: Store
) -> None:
    status, answer, _ = await gateway.post({"prompt": "Once", "echo": True}, PATH)
    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["id"].startswith("cmpl-")
    (choice,) = answer["choices"]
    assert choice == {
        "text": "OnceHello world",
        "index": 0,
        "logprobs": None,
        "finish_reason": "stop",
    }
    (asked,) = engine.requests
    assert asked.path == "/v1/completions"
    assert isinstance(asked.body, dict)
    assert (asked.body["prompt"], asked.body["max_tokens"]) == ("Once", 16)
    assert "messages" not in asked.body
    assert rows(store) == [(10, 2, 0)]


@pytest.mark.parametrize("prompt", [["One", "Two"], [[1, 2], [3]]])
async def test_several_prompts_are_choices_and_each_is_counted(
    engine: ScriptedEngine, gateway: Gateway, prompt: Any
) -> None:
    _, answer, _ = await gateway.post({"prompt": prompt, "n": 2}, PATH)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (20, 8)
    asked = [request.body["prompt"] for request in engine.requests]  # type: ignore[index]
    assert sorted(asked) == sorted([*prompt, *prompt])


async def test_a_stream_of_text(gateway: Gateway) -> None:
    got = await stream(gateway, PATH, {"prompt": "Once", "echo": True})
    texts = [chunk["choices"][0]["text"] for chunk in got if chunk["choices"]]
    assert texts == ["Once", "Hello", " world", ""]
    assert got[-1]["usage"]["completion_tokens"] == 2
    assert {chunk["object"] for chunk in got} == {"text_completion"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_logprobs_are_lists(gateway: Gateway, streamed: bool) -> None:
    body = {"prompt": "Once", "logprobs": 2}
    if streamed:
        got = [c["choices"][0] for c in await stream(gateway, PATH, body) if c["choices"]]
    else:
        got = (await gateway.post(body, PATH))[1]["choices"]
    told = [one["logprobs"] for one in got if one["logprobs"]]
    assert [token for one in told for token in one["tokens"]] == ["Hello", " world"]
    assert [offset for one in told for offset in one["text_offset"]] == [0, 5]
    assert all(len(top) == 2 for one in told for top in one["top_logprobs"])


async def test_an_engine_that_dies_is_gone_on_from_elsewhere(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(tokens=["one ", "two ", "three"])
    engine.scripts += [Script(tokens=["one ", "two ", "three"], die_after=2)]
    gateway = await start_gateway(
        models=[{"name": "m", "backends": [{"url": engine.url, "kind": "vllm"}]}]
    )
    got = await stream(gateway, PATH, {"prompt": "Count: "})
    assert "".join(c["choices"][0]["text"] for c in got if c["choices"]) == "one two three"
    last = engine.requests[-1].body
    assert isinstance(last, dict)
    assert last["prompt"].startswith("Count: one")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt.1"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": [1.5]}, "prompt.0"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"echo": True, "prompt": [1]}, "echo"),
        ({"messages": []}, "messages"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {
                "prompt": ["a", "b"],
                "stream": True,
                "stream_options": {"continuous_usage_stats": True},
            },
            "stream_options.continuous_usage_stats",
        ),
    ],
)
async def test_a_mistake_names_its_field(
    gateway: Gateway, wrong: dict[str, Any], param: str
) -> None:
    status, answer, _ = await gateway.post({"prompt": "Once", **wrong}, PATH)
    assert (status, answer["error"]["param"]) == (400, param)


async def test_each_piece_may_tell_the_usage_so_far(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    backend = {"url": engine.url, "kind": "vllm"}
    gateway = await start_gateway(models=[{"name": "m", "backends": [backend]}])
    body = {"prompt": "Once", "stream": True, "stream_options": {"continuous_usage_stats": True}}
    async with gateway.http.post(gateway.url + PATH, json=body) as response:
        got = chunks(await response.text())
    assert [one["usage"]["completion_tokens"] for one in got if "usage" in one][:2] == [1, 2]


async def test_a_prompt_that_an_engine_would_put_into_its_template_is_refused(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    backend = {"url": engine.url, "kind": "ollama"}
    gateway = await start_gateway(models=[{"name": "m", "backends": [backend]}])
    status, answer, _ = await gateway.post({"prompt": "Once"}, PATH)
    assert (status, answer["error"]["param"]) == (400, "prompt")


async def test_tokens_that_the_model_lacks_are_no_failure_of_its_backend(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(status=500, error={"message": "vector::_M_range_check"})
    for _ in range(8):
        status, answer, _ = await gateway.post({"prompt": [2**31 - 1]}, PATH)
        assert (status, answer["error"]["param"]) == (400, "prompt")
    engine.script = Script()
    assert (await gateway.post({"prompt": "Once"}, PATH))[0] == 200


async def test_a_suffix_is_passed_on_only_to_engines_that_fill_gaps(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    for kind, status in (("openai", 200), ("vllm", 400), ("llamacpp", 400)):
        backend = {"url": engine.url, "kind": kind}
        gateway = await start_gateway(models=[{"name": "m", "backends": [backend]}])
        got, answer, _ = await gateway.post({"prompt": "def f(", "suffix": "return 1"}, PATH)
        assert got == status
        if status == 400:
            assert answer["error"]["param"] == "suffix"
    assert engine.requests[-1].body["suffix"] == "return 1"  # type: ignore[index]
