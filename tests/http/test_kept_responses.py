"""``/v1/responses`` and its answers that are kept: read, resumed, cancelled; over a script."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest

from reverie.errors import Overloaded, StoreFailure
from reverie.gateway.accounts.kept_answers import KeptAnswers
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway

PATH = "/v1/responses"
KEYS = {"REVERIE_API_KEYS": "a-secret-key,b-secret-key"}
SLOW = Script(tokens=[f"{n} " for n in range(2_000)], delay=0.01)


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "m", "input": "Hi", **more}


def events(written: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in written.split("\n") if line.startswith("data: ")]


async def stream(gateway: Gateway, headers: dict[str, str] | None = None, **more: Any) -> str:
    body = asked(stream=True, **more)
    async with gateway.http.post(gateway.url + PATH, json=body, headers=headers) as response:
        assert response.status == 200
        return await response.text()


async def begin(gateway: Gateway, **more: Any) -> str:
    """Begin a kept stream, leave it, and give its id."""
    body = asked(stream=True, store=True, **more)
    async with gateway.http.post(gateway.url + PATH, json=body) as response:
        line = ""
        while not line.startswith("data: "):
            line = (await response.content.readline()).decode()
        return str(json.loads(line[6:])["response"]["id"])


async def test_an_answer_and_a_stream(gateway: Gateway) -> None:
    status, answer, headers = await gateway.post(asked(metadata={"a": "b"}), PATH)
    assert (status, answer["status"], answer["object"]) == (200, "completed", "response")
    assert answer["output"][0]["content"][0]["text"] == "Hello world"
    assert answer["metadata"] == {"a": "b"}
    assert headers["x-request-id"]
    last = events(await stream(gateway))[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["output"][0]["content"] == answer["output"][0]["content"]


async def test_what_has_no_effect_is_told(gateway: Gateway) -> None:
    _, _, headers = await gateway.post(asked(brand_new=1), PATH)
    assert headers["x-reverie-ignored"] == "brand_new"


async def test_a_prompt_is_counted(gateway: Gateway) -> None:
    status, answer, _ = await gateway.post(asked(), f"{PATH}/input_tokens")
    assert (status, answer["object"]) == (200, "response.input_tokens")
    assert answer["input_tokens"] > 0


async def test_what_is_not_kept_is_not_found(gateway: Gateway) -> None:
    _, answer, _ = await gateway.post(asked(), PATH)
    for id in (answer["id"], "resp_1", "nonsense", "resp_k!"):
        status, refusal, _ = await gateway.get(f"{PATH}/{id}")
        assert (status, refusal["error"]["code"]) == (404, "not_found")
        assert refusal["error"]["param"] == "response_id"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ["store", "key"])
async def test_a_kept_answer_is_read_again(gateway: Gateway, streamed: bool, how: str) -> None:
    headers = {"Idempotency-Key": "retry 7".replace(" ", "/")} if how == "key" else None
    more = {"store": True} if how == "store" else {}
    if streamed:
        answer = events(await stream(gateway, headers, **more))[-1]["response"]
    else:
        _, answer, _ = await gateway.post(asked(**more), PATH, headers)
    status, again, _ = await gateway.get(f"{PATH}/{answer['id']}")
    assert (status, again) == (200, answer)


async def test_a_kept_stream_is_resumed_after_any_of_its_events(gateway: Gateway) -> None:
    whole = await stream(gateway, store=True)
    count = len(events(whole))
    id = events(whole)[0]["response"]["id"]
    _, again, _ = await gateway.get(f"{PATH}/{id}?stream=true")
    assert again == whole
    for after in range(count):
        _, rest, headers = await gateway.get(f"{PATH}/{id}?stream=true&starting_after={after}")
        assert [one["sequence_number"] for one in events(rest)] == list(range(after + 1, count))
        assert headers["content-type"].startswith("text/event-stream")
    status, gone, _ = await gateway.get(f"{PATH}/{id}?stream=true&starting_after={count}")
    assert (status, gone["error"]["code"]) == (410, "stream_not_resumable")


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "retry-7"}])
async def test_a_kept_stream_that_is_broken_off_fails_under_its_own_id(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    headers: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = await start_gateway(engine, server={"max_kept_answer": 2**26})
    engine.script = Script(tokens=("x" * 20_000,) * 400)
    whole = await stream(gateway, headers, store=True, max_output_tokens=400)
    id = events(whole)[0]["response"]["id"]
    async with gateway.http.get(f"{gateway.url}{PATH}/{id}?stream=true") as slow:
        assert slow.status == 200
        await slow.content.read(1)
        await asyncio.sleep(0.2)  # until every buffer is full
        gateway.app.end_requests(Overloaded("Enough.", retry_after=1))
        last = (await slow.text()).rstrip().rpartition("\n")[2]
    failed = json.loads(last.removeprefix("data: "))
    assert (failed["type"], failed["response"]["id"]) == ("response.failed", id)
    assert failed["response"]["error"]["message"] == "Enough."
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []


async def test_a_stream_that_was_dropped_goes_on_while_it_is_generated(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=[f"{n} " for n in range(60)], delay=0.01)
    id = await begin(gateway)
    status, so_far, _ = await gateway.get(f"{PATH}/{id}")
    assert (status, so_far["status"], so_far["usage"]) == (200, "in_progress", None)
    _, rest, _ = await gateway.get(f"{PATH}/{id}?stream=true&starting_after=3")
    numbers = [one["sequence_number"] for one in events(rest)]
    assert numbers == list(range(4, 4 + len(numbers)))
    whole = events(rest)[-1]["response"]["output"][0]["content"][0]["text"]
    assert whole == "".join(f"{n} " for n in range(60))
    assert engine.generations == 1


async def test_a_cancelled_answer_ends_and_its_slot_is_free(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = SLOW
    id = await begin(gateway)
    reading = asyncio.create_task(gateway.get(f"{PATH}/{id}?stream=true"))
    await gateway.until(lambda: engine.connections == 1)
    await asyncio.sleep(0.05)
    status, answer, _ = await gateway.post({}, f"{PATH}/{id}/cancel")
    assert (status, answer["id"], answer["status"]) == (200, id, "cancelled")
    _, written, _ = await reading
    last = events(written)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")
    await gateway.until(lambda: engine.connections == 0)
    assert (await gateway.get(f"{PATH}/{id}"))[0] == 404


async def test_a_complete_answer_is_cancelled_no_more(gateway: Gateway) -> None:
    _, answer, _ = await gateway.post(asked(store=True), PATH)
    assert (await gateway.post({}, f"{PATH}/{answer['id']}/cancel"))[1] == answer


async def test_a_key_sees_its_own_answers_alone(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ=KEYS)
    mine, other = (
        {"Authorization": f"Bearer {key}"} for key in KEYS["REVERIE_API_KEYS"].split(",")
    )
    _, answer, _ = await gateway.post(asked(store=True), PATH, mine)
    url = f"{PATH}/{answer['id']}"
    assert (await gateway.get(url, mine))[0] == 200
    assert (await gateway.get(url, other))[0] == 404
    assert (await gateway.get(url))[0] == 401
    assert (await gateway.post({}, f"{url}/cancel", other))[0] == 404


async def test_an_answer_of_another_dialect_is_no_response(gateway: Gateway) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    await gateway.post(chat, "/v1/chat/completions", {"Idempotency-Key": "seven"})
    body = json.dumps(chat).encode()
    proof = hashlib.sha256(b"openai\0" + body).digest()[:16].hex()
    assert (await gateway.get(f"{PATH}/resp_kc2V2ZW4{proof}"))[0] == 404


async def test_to_guess_a_key_is_not_enough(gateway: Gateway) -> None:
    _, answer, _ = await gateway.post(asked(), PATH, {"Idempotency-Key": "1"})
    id = answer["id"]
    assert (await gateway.get(f"{PATH}/{id}"))[0] == 200
    for guess in (id[:-32], id[:-32] + "0" * 32, id[:-1], id[:-32] + "%20" * 32):
        assert (await gateway.get(f"{PATH}/{guess}"))[0] == 404
        assert (await gateway.post({}, f"{PATH}/{guess}/cancel"))[0] == 404


@pytest.mark.parametrize("depth", [100, 900, 950, 990, 5_000, 100_000])
@pytest.mark.parametrize("padding", [0, 200_000])
async def test_what_is_nested_deeply_is_never_our_fault(
    gateway: Gateway, depth: int, padding: int
) -> None:
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    text = b"x" * padding
    body = b'{"model":"m","input":"Hi","user":"%b","metadata":%b}' % (text, nested)
    async with gateway.http.post(gateway.url + PATH, data=body) as response:
        assert response.status in (200, 400)


async def test_large_fields_are_not_repeated(gateway: Gateway) -> None:
    _, answer, _ = await gateway.post(asked(instructions="x" * 20_000), PATH)
    assert answer["instructions"] is None
    _, answer, _ = await gateway.post(asked(instructions="x" * 10_000, truncation="auto"), PATH)
    assert (len(answer["instructions"]), answer["truncation"]) == (10_000, "disabled")


async def test_a_store_that_is_down_is_no_missing_answer(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StoreFailure("down")

    monkeypatch.setattr(KeptAnswers, "_look_up", fail)
    status, answer, _ = await gateway.get(f"{PATH}/resp_{7:032x}")
    assert (status, answer["error"]["code"]) == (503, "overloaded")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=true&starting_after=x", "starting_after"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=true&starting_after=", "starting_after"),
        ("stream=true&stream=true", "stream"),
        ("stream=yes", "stream"),
        ("stream=true&starting_after=1&starting_after=2", "starting_after"),
    ],
)
async def test_a_wrong_query_is_refused_by_name(gateway: Gateway, query: str, param: str) -> None:
    id = events(await stream(gateway, store=True))[0]["response"]["id"]
    status, refusal, _ = await gateway.get(f"{PATH}/{id}?{query}")
    assert (status, refusal["error"]["param"]) == (400, param)


async def test_what_was_not_streamed_has_no_events(gateway: Gateway) -> None:
    _, answer, _ = await gateway.post(asked(store=True), PATH)
    status, refusal, _ = await gateway.get(f"{PATH}/{answer['id']}?stream=true")
    assert (status, refusal["error"]["param"]) == (400, "stream")


async def test_other_methods_and_paths_are_refused(gateway: Gateway) -> None:
    async with gateway.http.delete(f"{gateway.url}{PATH}/resp_1") as response:
        assert response.status == 405
    assert (await gateway.get(f"{PATH}/resp_1/input_items"))[0] == 404
    assert (await gateway.get(f"{PATH}/resp_1/cancel"))[0] == 405


async def test_the_metrics_name_no_ids(gateway: Gateway) -> None:
    await gateway.get(f"{PATH}/resp_secret")
    _, text, _ = await gateway.get("/metrics")
    assert "resp_secret" not in text


async def test_an_engine_that_breaks_in_mid_answer_fails_the_response(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=["a", "b", "c"], die_after=2, continues=False)
    written = events(await stream(gateway))
    assert written[-1]["type"] == "response.failed"
    assert written[-1]["response"]["error"]["code"] == "server_error"
