"""What Prometheus reads."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import reverie
from reverie.gateway.merged_metrics import merged
from reverie.gateway.metric_names import TABLE
from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

PRICED = {"price": {"input": "1USD", "output": "2USD", "cached": "0.5USD"}}
ADMIN = "an-admin-key-of-24-letters"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
ONCE = {"Idempotency-Key": "once"}
Condition: TypeAlias = Callable[[dict[str, float]], object]


async def scraped(gateway: Gateway) -> dict[str, float]:
    _, text, _ = await gateway.get("/metrics")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def until(gateway: Gateway, condition: Condition) -> dict[str, float]:
    """What is told once it fulfils a condition: a request is counted after its answer is sent."""
    async with asyncio.timeout(30):
        while not condition(found := await scraped(gateway)):
            await asyncio.sleep(0.01)
    return found


async def test_metrics_count_what_became_of_requests(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    await gateway.post(chat())
    await gateway.post(chat(max_tokens=1))
    await gateway.post(chat(temperature=9))
    engine.script = Script(status=500)
    await gateway.post(chat())
    status, text, headers = await gateway.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    for line in (
        'reverie_requests_total{model="m",outcome="ok",status="200"} 1.0',
        'reverie_requests_total{model="m",outcome="length",status="200"} 1.0',
        'reverie_requests_total{model="none",outcome="refused",status="422"} 1.0',
        'reverie_requests_total{model="m",outcome="failed",status="502"} 1.0',
        'reverie_tokens_total{direction="prompt",model="m"} 20.0',
        'reverie_tokens_total{direction="completion",model="m"} 3.0',
        'reverie_time_to_first_token_seconds_count{model="m"} 2.0',
        'reverie_request_duration_seconds_count{model="m"} 3.0',
        'reverie_queue_wait_seconds_count{model="m"} 3.0',
        'reverie_queue_length{model="m"} 0.0',
        'reverie_queue_limit{model="m"} 128.0',
        'reverie_model_state{model="m",state="ready"} 1.0',
        'reverie_model_state{model="m",state="down"} 0.0',
        "reverie_store_up 1.0",
        "reverie_ledger_lag_seconds 0.0",
        f'reverie_build_info{{python="{platform.python_version()}",'
        f'version="{reverie.__version__}"}} 1.0',
    ):
        assert line in text.splitlines()
    for gauge, value in (("in_flight", 0), ("slots", 64), ("backend_ready", 1)):
        pattern = rf'^reverie_{gauge}\{{backend="0:127.0.0.1:\d+",model="m"\}} {value}\.0$'
        assert re.search(pattern, text, re.MULTILINE)


async def test_the_names_of_opentelemetry_have_its_labels(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    await gateway.post(chat(), "/v1/chat/completions")
    await gateway.post({"prompt": "Hi"}, "/v1/completions")
    engine.script = Script(status=500)
    await gateway.post(chat(), "/v1/chat/completions")
    found = await scraped(gateway)

    def labels(operation: str, more: str = "") -> str:
        return (
            f'{{{more}gen_ai_operation_name="{operation}",gen_ai_provider_name="reverie",'
            'gen_ai_request_model="m"}'
        )

    duration = "gen_ai_server_request_duration_seconds_count"
    assert found[duration + labels("chat", 'error_type="",')] == 1
    assert found[duration + labels("chat", 'error_type="backend_error",')] == 1
    assert found[duration + labels("text_completion", 'error_type="",')] == 1
    for name in ("time_to_first_token", "time_per_output_token"):
        assert found[f"gen_ai_server_{name}_seconds_count{labels('chat')}"] == 1


async def test_what_is_to_be_watched_is_told_before_it_happens(gateway: Gateway) -> None:
    found = await scraped(gateway)
    for name in (
        'reverie_requests_total{model="m",outcome="failed",status="502"}',
        'reverie_failovers_total{model="m",outcome="impossible"}',
        'reverie_retries_total{model="m"}',
        'reverie_cancellations_total{by="operator",model="m"}',
        'reverie_replays_total{kind="joined",model="m"}',
        'reverie_tokens_total{direction="completion",model="m"}',
    ):
        assert found[name] == 0, name


async def test_each_token_counts_once_among_the_gaps_and_a_pause_is_seen(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("a",) * 6, batch=2, stall_after=2)
    async with gateway.http.post(f"{gateway.url}/llm", json=chat(stream=True)) as response:
        await response.content.readline()  # its first tokens came through
        await asyncio.sleep(0.5)
        engine.resume()
        await response.read()
    found = await until(gateway, lambda f: f.get('reverie_inter_token_seconds_count{model="m"}', 0))
    assert found['reverie_inter_token_seconds_sum{model="m"}'] >= 0.5
    within = {
        bound: found[f'reverie_inter_token_seconds_bucket{{le="{bound}",model="m"}}']
        for bound in ("0.1", "+Inf")
    }
    assert within["+Inf"] in (4, 5)  # the first two come together, or one after the other
    assert within["0.1"] < within["+Inf"]


async def test_choices_count_all_their_tokens_and_one_wait(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    asked = asyncio.create_task(gateway.post(chat(n=2), "/v1/chat/completions"))
    running = gateway.app._live
    await gateway.until(lambda: running.tell([], [])["requests"][:1] != [])
    await gateway.until(lambda: running.tell([], [])["requests"][0]["tokens"] == 2)
    engine.resume()
    assert (await asked)[0] == 200
    found = await scraped(gateway)
    assert found['reverie_inter_token_seconds_count{model="m"}'] == 2
    assert found['reverie_queue_wait_seconds_count{model="m"}'] == 1
    assert found['reverie_time_to_first_token_seconds_count{model="m"}'] == 1


async def test_a_wait_counts_also_of_who_gave_up_and_not_of_who_was_refused_at_once(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        engine, backend={"slots": 1}, server={"queue_size": 1, "queue_timeout": 0.2}
    )
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    running = asyncio.create_task(gateway.post(chat()))
    await engine.wait_for(lambda e: e.stalled == 1)
    waiting = asyncio.create_task(gateway.post(chat()))
    await gateway.until(lambda: gateway.pool().waiting == 1)
    assert (await gateway.post(chat()))[0] == 503
    assert (await waiting)[0] == 503
    engine.resume()
    assert (await running)[0] == 200
    found = await scraped(gateway)
    assert found['reverie_queue_wait_seconds_count{model="m"}'] == 2
    assert found['reverie_queue_wait_seconds_bucket{le="0.1",model="m"}'] == 1


async def test_tokens_and_money_are_those_of_the_ledger(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, model=PRICED)
    engine.script = Script(tokens=("a", "b"), prompt_tokens=10, cached_tokens=4)
    await gateway.post(chat())
    engine.script = Script(status=500)
    await gateway.post(chat())
    found = await scraped(gateway)
    assert found['reverie_cached_tokens_total{model="m"}'] == 4
    # 6 at 1 USD, 4 at 0.50 and 2 at 2 USD a million.
    assert round(found['reverie_cost_total{currency="USD",model="m"}'] * 1e6, 6) == 12


async def test_what_the_store_has_not_taken_is_told_by_its_age(
    engine: ScriptedEngine, start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = await start_gateway(engine, store={"timeout": 0.3})
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    running = asyncio.create_task(gateway.post(chat()))
    await engine.wait_for(lambda e: e.stalled == 1)
    commits = (await scraped(gateway))["reverie_store_commit_seconds_count"]
    assert commits >= 1
    with contextlib.closing(sqlite3.connect(tmp_path / "reverie.db")) as hog:
        hog.execute("BEGIN EXCLUSIVE")
        engine.resume()
        assert (await running)[0] == 200
        found = await until(gateway, lambda found: found["reverie_ledger_lag_seconds"] > 0.5)
        assert found["reverie_journal_entries"] == 1
        assert found["reverie_store_up"] == 0
    found = await until(gateway, lambda found: found["reverie_ledger_lag_seconds"] == 0)
    assert found["reverie_journal_entries"] == 0
    await until(gateway, lambda found: found["reverie_store_commit_seconds_count"] > commits)


async def test_replays_are_told_by_what_was_given_again(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = Script(tokens=("a", "b"), stall_after=1)
    asked = [asyncio.create_task(gateway.post(chat(), headers=ONCE)) for _ in range(3)]
    await engine.wait_for(lambda e: e.stalled == 1)
    await gateway.until(lambda: len(gateway.app.in_flight) == 4)
    engine.resume()
    await asyncio.gather(*asked)
    await gateway.post(chat(), headers=ONCE)
    found = await scraped(gateway)
    assert found['reverie_replays_total{kind="joined",model="m"}'] == 2
    assert found['reverie_replays_total{kind="stored",model="m"}'] == 1
    assert found['reverie_tokens_total{direction="completion",model="m"}'] == 2


async def test_what_is_cut_off_is_told_by_who_did_it(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, environ={"REVERIE_ADMIN_KEY": ADMIN})
    hasty = await start_gateway(engine, server={"request_timeout": 0.2})
    engine.script = Script(tokens=("a", "b"), stall_after=1)

    async def begin(**headers: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(gateway.post(chat(), headers=headers))
        await engine.wait_for(lambda e: e.stalled == 1)
        return task

    leaver = await begin()
    leaver.cancel()
    await engine.wait_for(lambda e: e.in_flight == e.stalled == 0)
    ended = await begin(**{"X-Request-Id": "mine"})
    await gateway.post(None, "/admin/v1/requests/mine/cancel", AS_ADMIN)
    assert (await ended)[0] == 409
    assert (await hasty.post(chat()))[0] == 504

    def cancelled(by: str) -> str:
        return f'reverie_cancellations_total{{by="{by}",model="m"}}'

    found = await until(gateway, lambda found: found[cancelled("client")] == 1)
    assert found[cancelled("operator")] == 1
    assert found[cancelled("deadline")] == 0
    await until(hasty, lambda found: found[cancelled("deadline")] == 1)


async def test_a_request_that_was_tried_again_is_told(start_gateway: StartGateway) -> None:
    async with ScriptedEngine() as one, ScriptedEngine() as other:
        gateway = await start_gateway(one, other)
        one.scripts = other.scripts = [Script(status=500)]  # the first answer, whoever gives it
        assert (await gateway.post(chat()))[0] == 200
        found = await scraped(gateway)
        assert found['reverie_retries_total{model="m"}'] == 1


async def test_a_real_run_tells_all_that_the_table_has_and_nothing_else(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, model=PRICED)
    await gateway.get("/healthz")
    await gateway.post(chat())
    engine.script = Script(status=500)
    await gateway.post(chat())
    await gateway.until(lambda: gateway.pool().states[0].backend.health is not None)
    _, text, _ = await gateway.get("/metrics")
    told = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        defined = TABLE[name]
        assert family.type == defined.kind
        assert family.documentation == defined.meaning
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(defined.labels)
        told[name] = bool(family.samples)
    # What a cluster and a collector have is in the tests of theirs.
    elsewhere = ("reverie_cluster_", "reverie_trace_")
    expected = {name for name in TABLE if not name.startswith(elsewhere)}
    assert set(told) == expected
    assert {name for name, samples in told.items() if not samples} == set()


async def test_two_workers_tell_each_series_once_and_what_they_did_together(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine, model=PRICED)
    await gateway.post(chat())
    _, text, _ = await gateway.get("/metrics")

    def series(page: str) -> dict[tuple[str, ...], tuple[str, float]]:
        return {
            (sample.name, *map(str, sorted(sample.labels.items()))): (family.name, sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    one, both = series(text), series(merged([text.encode(), text.encode()]).decode())
    assert one.keys() == both.keys()
    rules = {metric.family: metric.merge for metric in TABLE.values()}
    for key, (family, value) in one.items():
        expected = 2 * value if rules[family] == "sum" else value
        assert both[key][1] == pytest.approx(expected), key


async def test_no_label_is_a_clients_word(engine: ScriptedEngine, gateway: Gateway) -> None:
    word = "a-word-of-a-client"
    await gateway.post(chat(model=word))
    await gateway.post(chat(user=word), headers={"X-Request-Id": word, "Idempotency-Key": word})
    await gateway.post(chat(), f"/llm/{word}")
    engine.script = Script(status=400, error={"message": word, "code": word})
    await gateway.post(chat())
    async with aiohttp.ClientSession(headers={"User-Agent": word}) as http:
        async with http.post(f"{gateway.url}/llm", json=chat(stop=[word])) as response:
            await response.read()
    _, text, _ = await gateway.get("/metrics")
    assert word not in text
