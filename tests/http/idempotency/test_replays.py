"""The same ``Idempotency-Key`` is one generation, however often and from where it is read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from reverie.gateway.accounts.kept_answers import AnswerBound
from reverie.http.idempotency import transcript
from reverie.store import gateways
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

ONCE: dict[str, str] = {"Idempotency-Key": "once"}
WORDS = ("one ", "two ", "three ", "four ", "five ")


def ledger(tmp_path: Path) -> list[tuple[str, int]]:
    with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db")) as database:
        return database.execute("SELECT outcome, completion_tokens FROM ledger").fetchall()


async def stream(
    gateway: Gateway, *, after: int | None = None, path: str = "/llm", **more: Any
) -> tuple[int, str]:
    headers = ONCE if after is None else {**ONCE, "Last-Event-ID": str(after)}
    body = chat(stream=True, **more)
    async with gateway.http.post(gateway.url + path, json=body, headers=headers) as response:
        return response.status, await response.text()


def kept_bytes(tmp_path: Path) -> int:
    with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db")) as database:
        (size,) = database.execute("SELECT sum(length(body)) FROM answers").fetchone()
        return int(size)


def events(text: str) -> list[str]:
    return [event for event in text.split("\n\n") if event]


async def begin_and_leave(gateway: Gateway) -> None:
    """Ask for a stream, and drop it once it has begun."""
    async with gateway.http.post(
        gateway.url + "/llm", json=chat(stream=True), headers=ONCE
    ) as response:
        await response.content.readline()
        response.close()


@pytest.mark.parametrize("path", ["/llm", "/v1/chat/completions"])
async def test_a_stream_that_breaks_ends_under_the_id_that_it_began_with_for_every_reader(
    engine: ScriptedEngine, gateway: Gateway, path: str
) -> None:
    engine.script = Script(
        tokens=WORDS, delay=0.05, error_in_stream={"message": "broken"}, error_after=3
    )
    results = await asyncio.gather(stream(gateway, path=path), stream(gateway, path=path))
    for status, text in results:
        assert status == 200
        chunks = [json.loads(event.partition("data: ")[2]) for event in events(text)]
        assert chunks[-1]["choices"][0]["finish_reason"] == "error"
        assert len({chunk["id"] for chunk in chunks}) == 1
    assert len(engine.requests) == 1


@pytest.mark.parametrize("path", ["/llm", "/v1/chat/completions"])
async def test_a_finished_stream_is_replayed_byte_for_byte(
    engine: ScriptedEngine, gateway: Gateway, tmp_path: Path, path: str
) -> None:
    engine.script = Script(tokens=WORDS)
    _, first = await stream(gateway, path=path)
    assert "[DONE]" in first
    for _ in range(3):
        assert await stream(gateway, path=path) == (200, first)
    assert len(engine.requests) == 1
    assert ledger(tmp_path) == [("ok", 5)]


async def test_a_finished_json_answer_is_replayed_byte_for_byte_and_says_so(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    answers = []
    for replayed in (None, "true"):
        async with gateway.http.post(gateway.url + "/llm", json=chat(), headers=ONCE) as response:
            answers.append(await response.read())
            assert response.headers.get("idempotent-replayed") == replayed
            assert response.content_type == "application/json"
    assert answers[0] == answers[1]
    assert len(engine.requests) == 1


async def test_every_event_has_its_number(engine: ScriptedEngine, gateway: Gateway) -> None:
    engine.script = Script(tokens=WORDS)
    _, text = await stream(gateway)
    assert [event.split("\n")[0] for event in events(text)] == [f"id: {n}" for n in range(1, 8)]
    assert all(event.split("\n")[1].startswith("data: ") for event in events(text))


async def test_duplicates_attach_to_the_running_generation(
    engine: ScriptedEngine, gateway: Gateway, tmp_path: Path
) -> None:
    engine.script = Script(tokens=WORDS, delay=0.05)
    answers = await asyncio.gather(*(stream(gateway) for _ in range(10)))
    assert len(set(answers)) == 1
    assert len(engine.requests) == 1
    assert ledger(tmp_path) == [("ok", 5)]


@pytest.mark.slow
async def test_a_thousand_keys_with_ten_copies_each_are_a_thousand_generations(
    engine: ScriptedEngine, gateway: Gateway, tmp_path: Path
) -> None:
    engine.script = Script(tokens=("a", "b"))
    at_once = asyncio.Semaphore(100)

    async def ask(number: int) -> tuple[int, bytes]:
        headers = {"Idempotency-Key": f"key-{number}"}
        body = chat(f"Number {number}")
        async with (
            at_once,
            gateway.http.post(gateway.url + "/llm", json=body, headers=headers) as response,
        ):
            assert response.status == 200
            return number, await response.read()

    answers = await asyncio.gather(*(ask(number) for number in range(1000) for _ in range(10)))
    assert Counter(answers).most_common(1)[0][1] == 10
    assert len(set(answers)) == 1000
    assert len(engine.requests) == 1000
    assert ledger(tmp_path) == [("ok", 2)] * 1000


async def test_another_body_or_dialect_is_422(engine: ScriptedEngine, gateway: Gateway) -> None:
    await stream(gateway)
    for path, body in (("/llm", chat("Other")), ("/v1/chat/completions", chat(stream=True))):
        status, answer, _ = await gateway.post(body, path, headers=ONCE)
        assert (status, answer["error"]["code"]) == (422, "idempotency_key_reused")
        assert answer["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    assert len(engine.requests) == 1


async def test_another_body_is_422_while_the_first_runs(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=WORDS, delay=0.1)
    first = asyncio.create_task(stream(gateway))
    await engine.wait_for(lambda e: e.in_flight == 1)
    status, answer, _ = await gateway.post(chat("Other"), headers=ONCE)
    assert (status, answer["error"]["code"]) == (422, "idempotency_key_reused")
    assert "[DONE]" in (await first)[1]


@pytest.mark.parametrize("running", [True, False])
async def test_a_dropped_stream_is_resumed_after_any_event(
    engine: ScriptedEngine, gateway: Gateway, tmp_path: Path, running: bool
) -> None:
    """Drop after each event, then go on: the two parts are the whole, and nothing is repeated."""
    engine.script = Script(tokens=WORDS, delay=0.02 if running else 0)
    whole = events((await stream(gateway))[1])

    async def dropped(after: int, headers: dict[str, str]) -> list[str]:
        seen: list[str] = []
        async with gateway.http.post(
            gateway.url + "/llm", json=chat(stream=True), headers=headers
        ) as response:
            while len(seen) < after:
                seen.append((await response.content.readuntil(b"\n\n")).decode().strip())
            response.close()
        return seen

    for after in range(len(whole)):
        headers = {"Idempotency-Key": f"drop-{after}"}
        first = await dropped(after, headers)
        resumed = {**headers, "Last-Event-ID": str(after)}
        async with gateway.http.post(
            gateway.url + "/llm", json=chat(stream=True), headers=resumed
        ) as response:
            rest = events(await response.text())
        together = first + rest
        assert [event.split("\n")[0] for event in together] == [
            f"id: {number}" for number in range(1, len(whole) + 1)
        ]
        said = [json.loads(event.split("data: ")[1]) for event in together[:-1]]
        assert "".join(c["choices"][0]["delta"]["content"] for c in said) == "".join(WORDS)
    assert len(engine.requests) == 1 + len(whole)
    assert {outcome for outcome, _ in ledger(tmp_path)} == {"ok"}


@pytest.mark.parametrize("path", ["/llm", "/v1/chat/completions"])
async def test_a_client_that_has_the_whole_stream_gets_an_empty_one(
    engine: ScriptedEngine, gateway: Gateway, path: str
) -> None:
    _, text = await stream(gateway, path=path)
    headers = {**ONCE, "Last-Event-ID": str(len(events(text)))}
    async with gateway.http.post(
        gateway.url + path, json=chat(stream=True), headers=headers
    ) as response:
        assert (response.status, await response.text()) == (200, "")
        assert response.content_type == "text/event-stream"
        assert response.headers["idempotent-replayed"] == "true"
    assert len(engine.requests) == 1


async def test_an_answer_without_events_is_sent_whole(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    answers = [
        (await gateway.post(chat(), headers={**ONCE, "Last-Event-ID": after}))[:2]
        for after in ("0", "1", "7")
    ]
    assert answers[0][0] == 200
    assert answers == answers[:1] * 3
    assert len(engine.requests) == 1


async def test_without_a_store_a_stream_that_has_ended_is_not_generated_for_its_rest(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, store={"url": "none"})
    engine.script = Script(tokens=WORDS)
    assert (await stream(gateway))[0] == 200
    assert (await stream(gateway, after=3))[0] == 410
    assert len(engine.requests) == 1


async def test_a_client_that_comes_back_as_its_answer_is_abandoned_has_it_generated_anew(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, server={"resume_grace": 0})
    engine.scripts = [Script(tokens=WORDS, stall_after=2)]
    await begin_and_leave(gateway)
    engine.script = Script(tokens=("anew",))
    status, text = await stream(gateway)
    assert status == 200
    assert "anew" in text
    assert text.endswith("data: [DONE]\n\n")
    await gateway.until(lambda: {outcome for outcome, _ in ledger(tmp_path)} == {"cancelled", "ok"})


async def test_a_client_that_wants_the_whole_answer_is_not_refused_with_one_that_wants_the_rest(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    """Another gateway gives the stream up while one waits here for its rest, and one for it all."""
    first, second = [await start_gateway(engine, server={"resume_grace": 0.3}) for _ in range(2)]
    engine.scripts = [Script(tokens=WORDS, stall_after=2)]
    async with first.http.post(
        first.url + "/llm", json=chat(stream=True), headers=ONCE
    ) as response:
        await response.content.readline()
        response.close()
    engine.script = Script(tokens=("quite ", "another ", "answer"))
    rest = asyncio.create_task(stream(second, after=1))
    whole = asyncio.create_task(stream(second))
    assert (await rest)[0] == 410
    status, text = await whole
    assert (status, events(text)[-1].split("\n")[1]) == (200, "data: [DONE]")
    assert len(engine.requests) == 2


async def test_a_generation_and_each_request_for_it_is_one_line(
    engine: ScriptedEngine, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="reverie.request"):
        await stream(gateway)
        await stream(gateway)
        await stream(gateway, seed=1)
    lines = [(record.message, record.fields) for record in caplog.records]  # type: ignore[attr-defined]
    assert [name for name, _ in lines] == ["generation", "request", "request", "request"]
    assert "status" not in lines[0][1]
    assert [fields["status"] for _, fields in lines[1:]] == [200, 200, 422]


async def test_generation_continues_while_nobody_reads(
    engine: ScriptedEngine, gateway: Gateway, tmp_path: Path
) -> None:
    engine.script = Script(tokens=WORDS, delay=0.05)
    await begin_and_leave(gateway)
    await gateway.until(lambda: ledger(tmp_path) == [("ok", 5)])
    assert "five" in (await stream(gateway))[1]
    assert len(engine.requests) == 1


async def test_after_its_grace_an_abandoned_generation_is_cancelled(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, server={"resume_grace": 0.1})
    engine.script = Script(tokens=WORDS, stall_after=2)
    async with gateway.http.post(
        gateway.url + "/llm", json=chat(stream=True), headers=ONCE
    ) as response:
        for _ in range(6):
            await response.content.readline()
        response.close()
    await engine.wait_for(lambda e: e.cancelled == 1)
    await gateway.until(lambda: ledger(tmp_path) == [("cancelled", 2)])
    status, _ = await stream(gateway, after=2)
    assert status == 410
    engine.script = Script(tokens=("anew",))
    assert "anew" in (await stream(gateway))[1]


@pytest.mark.parametrize("url", [None, "none"])
async def test_a_stream_is_not_resumed_from_another_generation_of_its_key(
    engine: ScriptedEngine, start_gateway: StartGateway, url: str | None
) -> None:
    store = {} if url is None else {"store": {"url": url}}
    gateway = await start_gateway(engine, server={"resume_grace": 0}, **store)
    engine.scripts = [Script(tokens=WORDS, stall_after=2)]
    async with gateway.http.post(
        gateway.url + "/llm", json=chat(stream=True), headers=ONCE
    ) as response:
        had = [(await response.content.readuntil(b"\n\n")).split(b"\n")[0] for _ in range(2)]
        response.close()
    await engine.wait_for(lambda e: e.cancelled == 1)
    after = int(had[-1].removeprefix(b"id: "))
    engine.script = Script(tokens=WORDS, stall_after=4)
    anew = asyncio.create_task(stream(gateway))
    await engine.wait_for(lambda e: e.in_flight == 1)
    assert (await stream(gateway, after=after))[0] == 410
    engine.resume()
    ids = [int(event.split("\n")[0].removeprefix("id: ")) for event in events((await anew)[1])]
    assert ids == list(range(ids[0], ids[0] + 7))
    assert after < ids[0] < 2**53
    assert (await stream(gateway, after=after))[0] == 410
    if url is None:  # it is kept, and its own
        status, rest = await stream(gateway, after=ids[3])
        assert (status, rest.split("\n")[0]) == (200, f"id: {ids[4]}")
    assert len(engine.requests) == 2


async def test_a_failed_request_may_be_sent_again(
    engine: ScriptedEngine, gateway: Gateway, tmp_path: Path
) -> None:
    engine.scripts = [Script(tokens=WORDS, die_after=1)]
    headers = {**ONCE, "Connection": "close"}
    body = chat(stream=True)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=headers) as response:
        text = await response.text()
    assert '"finish_reason":"error"' in text
    assert "[DONE]" not in text
    engine.script = Script(tokens=("anew",))
    assert "anew" in (await stream(gateway))[1]
    assert [outcome for outcome, _ in ledger(tmp_path)] == ["failed", "ok"]


async def test_a_refusal_reaches_every_copy(engine: ScriptedEngine, gateway: Gateway) -> None:
    engine.script = Script(status=500, first_delay=0.1)
    results = await asyncio.gather(
        *(gateway.post(chat(), headers=ONCE) for _ in range(3)),
    )
    assert {(status, answer["error"]["code"]) for status, answer, _ in results} == {
        (502, "backend_error")
    }


async def test_two_gateways_generate_once(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    engine.script = Script(tokens=WORDS, delay=0.05)
    gateways = [await start_gateway(engine, server={"port": 0}) for _ in range(2)]
    first, second = await asyncio.gather(*(stream(gateway) for gateway in gateways))
    assert first == second
    assert len(engine.requests) == 1


@pytest.mark.parametrize("path", ["/llm", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Idempotency-Key": "k" * 256},
        {"Idempotency-Key": "a b"},
        {"Idempotency-Key": "k", "Last-Event-ID": "x"},
        {"Idempotency-Key": "k", "Last-Event-ID": "-1"},
        {"Idempotency-Key": "k", "Last-Event-ID": "1" * 17},
        CIMultiDict([("Idempotency-Key", "k"), ("Idempotency-Key", "k")]),
        CIMultiDict([("Idempotency-Key", "k"), ("Last-Event-ID", "1"), ("Last-Event-ID", "2")]),
    ],
)
async def test_malformed_headers_are_named(
    gateway: Gateway, headers: Mapping[str, str], path: str
) -> None:
    status, answer, _ = await gateway.post(chat(), path, headers=headers)
    assert (status, answer["error"]["code"]) == (422 if path == "/llm" else 400, "invalid_request")
    assert answer["error"]["param"] in ("Idempotency-Key", "Last-Event-ID")


async def test_a_stream_cant_be_resumed_after_an_event_that_never_was(gateway: Gateway) -> None:
    await stream(gateway)
    assert (await stream(gateway, after=99))[0] == 410


async def test_a_large_answer_is_not_kept_and_not_generated_again(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, server={"max_kept_answer": 100})
    assert (await stream(gateway))[0] == 200
    status, answer, _ = await gateway.post(chat(stream=True), headers=ONCE)
    assert (status, answer["error"]["code"]) == (409, "answer_not_kept")
    assert len(engine.requests) == 1


@pytest.mark.parametrize("after", [None, 3])
async def test_a_client_that_comes_back_gets_the_same_error_as_the_first(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path, after: int | None
) -> None:
    first, second = [
        await start_gateway(
            engine,
            server={"queue_timeout": 0.1, "max_kept_answer": 100},
            store={"timeout": 1},
        )
        for _ in range(2)
    ]
    headers = ONCE if after is None else {**ONCE, "Last-Event-ID": str(after)}

    async def asked(gateway: Gateway, **more: Any) -> tuple[int, str, bool]:
        status, answer, got = await gateway.post(chat(stream=True, **more), headers=headers)
        return status, answer["error"]["code"], "Retry-After" in got

    engine.scripts = [Script(tokens=WORDS, stall_after=4)]
    running = asyncio.create_task(stream(first))
    await engine.wait_for(lambda e: e.in_flight == 1)
    assert await asked(second) == (409, "request_in_progress", True)
    engine.resume()
    await running
    assert await asked(second) == (409, "answer_not_kept", False)
    assert await asked(second, seed=1) == (422, "idempotency_key_reused", False)
    with contextlib.closing(
        sqlite3.connect(tmp_path / "reverie.db", isolation_level=None)
    ) as locking:
        locking.execute("BEGIN IMMEDIATE")
        status, code, again = await asked(second)
        assert (status, again) == (503, True), code


async def test_of_too_many_answers_the_oldest_are_generated_anew(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, store={"kept_answers_mib": 1})
    engine.script = Script(tokens=("x" * 1000,) * 400)

    async def replayed(key: str) -> bool:
        headers = {"Idempotency-Key": key}
        async with gateway.http.post(
            gateway.url + "/llm", json=chat(stream=True, max_tokens=400), headers=headers
        ) as response:
            assert (await response.text()).endswith("[DONE]\n\n")
            return "idempotent-replayed" in response.headers

    assert not any([await replayed(key) for key in ("first", "second", "third")])
    await gateway.until(lambda: kept_bytes(tmp_path) <= 2**20)
    assert [await replayed(key) for key in ("third", "first")] == [True, False]


async def test_an_answer_that_the_store_is_slow_to_take_is_counted_too(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether too many are kept is looked at while the answer waits to be written."""
    looks = 0

    def look(bound: AnswerBound) -> None:
        nonlocal looks
        looks += 1
        enforce(bound)

    enforce = AnswerBound.enforce
    monkeypatch.setattr(AnswerBound, "enforce", look)
    monkeypatch.setattr(gateways, "HEARTBEAT_INTERVAL", 0.02)
    gateway = await start_gateway(engine, store={"kept_answers_mib": 1})
    used: Any = gateway.app.ledger
    engine.script = Script(tokens=("x" * 1000,) * 600)
    await stream(gateway, max_tokens=600)
    assert kept_bytes(tmp_path) > 2**19
    engine.script = Script(tokens=("x" * 1000,) * 600, stall_after=1)
    second = asyncio.create_task(
        gateway.post(chat(max_tokens=600), headers={"Idempotency-Key": "second"})
    )
    await engine.wait_for(lambda e: e.stalled == 1)
    with contextlib.closing(
        sqlite3.connect(tmp_path / "reverie.db", isolation_level=None)
    ) as locking:
        locking.execute("BEGIN IMMEDIATE")
        engine.resume()
        await gateway.until(lambda: bool(used._settling))
        before = looks
        await gateway.until(lambda: looks >= before + 2 and used._answers._evicting is None)
    assert (await second)[0] == 200
    await gateway.until(lambda: 0 < kept_bytes(tmp_path) <= 2**20)


@pytest.mark.parametrize("as_stream", [True, False])
async def test_all_readers_of_a_stored_answer_share_it(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path, as_stream: bool
) -> None:
    """While one reads it, others get it though the store has lost it."""
    gateway = await start_gateway(engine, server={"max_kept_answer": 2**25})
    engine.script = Script(tokens=("x" * 20_000,) * 800)
    body = chat(stream=as_stream, max_tokens=800)

    async def asked() -> bytes:
        async with gateway.http.post(gateway.url + "/llm", json=body, headers=ONCE) as response:
            return await response.read()

    whole = await asked()
    assert len(whole) > 16_000_000
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=ONCE) as slow:
        begin = await slow.content.read(1)
        with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db")) as database:
            assert database.execute("UPDATE answers SET body = x'00'").rowcount == 1
            database.commit()
        assert await asked() == whole
        assert begin + await slow.read() == whole
    async with asyncio.timeout(30):
        while await asked() != b"\0":  # nobody holds it any more
            pass
    assert len(engine.requests) == 1


@pytest.mark.parametrize("as_stream", [True, False])
async def test_an_answer_larger_than_its_transcript_arrives_whole(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
    as_stream: bool,
) -> None:
    monkeypatch.setattr(transcript, "MAX_TRANSCRIPT", 20_000 if as_stream else 2000)
    monkeypatch.setattr(transcript, "_SPARE", 1000)
    gateway = await start_gateway(engine, server={"max_kept_answer": 1000})
    words = tuple(f"{number} " for number in range(1000))
    engine.script = Script(tokens=words, stall_after=990 if as_stream else None, delay=0.0001)
    body = chat(stream=as_stream, max_tokens=1000)
    async with gateway.http.post(gateway.url + "/llm", json=body, headers=ONCE) as response:
        if as_stream:
            for number in range(1, 980):
                event = (await response.content.readuntil(b"\n\n")).decode()
                assert event.startswith(f"id: {number}\n")
            first = {**ONCE, "Last-Event-ID": "1"}
            assert (await gateway.post(body, headers=first))[0] == 410
            status, answer, _ = await gateway.post(body, headers=ONCE)
            assert (status, answer["error"]["code"]) == (409, "answer_not_kept")
            await engine.wait_for(lambda e: e.stalled == 1)
            engine.resume()
        text = await response.text()
    assert response.status == 200
    if as_stream:
        assert events(text)[-1].endswith("data: [DONE]")
    else:
        assert json.loads(text)["choices"][0]["message"]["content"] == "".join(words)
    status, answer, _ = await gateway.post(body, headers=ONCE)
    assert (status, answer["error"]["code"]) == (409, "answer_not_kept")
    assert len(engine.requests) == 1


async def test_a_drain_waits_for_a_generation_that_nobody_reads(
    engine: ScriptedEngine, gateway: Gateway, tmp_path: Path
) -> None:
    engine.script = Script(tokens=WORDS, delay=0.05)
    with contextlib.suppress(aiohttp.ClientError):
        async with gateway.http.post(
            gateway.url + "/llm", json=chat(stream=True), headers=ONCE
        ) as response:
            await response.content.readline()
            response.close()
    gateway.server.stop()
    await gateway.until(lambda: ledger(tmp_path) == [("ok", 5)])


async def test_a_stream_is_resumed_during_a_drain_and_finishes(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=WORDS, stall_after=2)
    await begin_and_leave(gateway)
    gateway.server.stop()
    await gateway.until(lambda: gateway.app.in_flight.draining)
    resumed = asyncio.create_task(stream(gateway, after=1))
    others = {**ONCE, "Idempotency-Key": "other"}
    assert (await gateway.post(chat(), headers=others))[0] == 503
    engine.resume()
    status, text = await resumed
    assert status == 200
    assert text.startswith("id: 2\n")
    assert text.endswith("data: [DONE]\n\n")
