"""A model that runs in a cluster: engines come and go, and whoever is served notices nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from reverie.cluster.messages import Loads, ModelStatus
from reverie.gateway.serving import cluster
from reverie.testing import Script, ScriptedEngine
from tests.gateway.serving.fake_link import CLUSTER, FakeLink, member
from tests.harness import Gateway, StartGateway, chat
from tests.reloading import ADMIN, AS_ADMIN, reload

CERTIFICATE = Path(__file__).parents[2] / "backends" / "client" / "localhost.pem"
WORDS = tuple(f"w{number} " for number in range(40))
TEXT = "".join(WORDS)
SLOW = Script(tokens=WORDS, delay=0.01)


def model(engines: str = "1-3", **more: Any) -> dict[str, Any]:
    return {"name": "m", "source": "smollm2-135m", "engines": engines, "slots": 4, **more}


@pytest.fixture
async def engines() -> AsyncIterator[list[ScriptedEngine]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ScriptedEngine(SLOW)) for _ in range(3)]


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
async def start(start_gateway: StartGateway, link: FakeLink) -> StartGateway:
    async def start(engines: str = "1-3", **more: Any) -> Gateway:
        models = more.pop("models", [model(engines)])
        return await start_gateway(models=models, cluster=CLUSTER, link=link, environ=ADMIN, **more)

    return start


async def stream(gateway: Gateway, **more: Any) -> str:
    """A stream's whole text; it must have ended well."""
    text, finish = "", None
    body = chat(stream=True, max_tokens=100, **more)
    async with gateway.http.post(gateway.url + "/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        whole = await response.text()
    assert whole.endswith("data: [DONE]\n\n"), whole
    for line in whole.split("\n\n")[:-2]:
        event = json.loads(line.removeprefix("data: "))
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
    assert finish == "stop"
    return text


def streams(gateway: Gateway, count: int) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(stream(gateway, user=str(n))) for n in range(count)]


def names(gateway: Gateway) -> list[str]:
    return [state.name for state in gateway.pool().states]


async def test_a_request_waits_for_the_first_engine_and_is_reported_at_once(
    start: StartGateway,
    link: FakeLink,
    engines: list[ScriptedEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "BUSY_INTERVAL", 60.0)
    monkeypatch.setattr(cluster, "IDLE_INTERVAL", 60.0)
    gateway = await start("0-2")
    view = link.show()
    await gateway.until(lambda: gateway.app.models.default.state == "cold")
    await gateway.until(lambda: link.reports[-1].version == view.version)  # none is due by now
    assert (await gateway.get("/readyz"))[0] == 200  # it is loaded for whoever asks
    waited = asyncio.Event()
    link.on_report = lambda report: waited.set() if report.demand["m"].waiting else None
    asking = asyncio.create_task(stream(gateway))
    async with asyncio.timeout(5):
        await waited.wait()
    link.show(member("", state="loading"))
    await gateway.until(lambda: gateway.app.models.default.state == "loading")
    assert gateway.app.models.default.available
    link.show(member(engines[0]))
    assert await asking == TEXT
    assert engines[0].requests[0].headers["authorization"] == "Bearer secret-key"
    wanted = link.wanted["m"]
    assert (wanted.least, wanted.most, wanted.idle) == (0, 2, 60.0)
    assert wanted.spec.model_settings().source == "smollm2-135m"
    link.show(ended=["u0"])
    await gateway.until(lambda: gateway.app.models.default.state == "cold")
    (again,) = streams(gateway, 1)
    await gateway.until(lambda: gateway.pool().waiting == 1)
    link.show(member(engines[1], 0, uid="new"))
    assert await again == TEXT


async def test_a_wait_is_reported_at_once_though_other_requests_run_already(
    start: StartGateway,
    link: FakeLink,
    engines: list[ScriptedEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "BUSY_INTERVAL", 60.0)
    monkeypatch.setattr(cluster, "IDLE_INTERVAL", 60.0)
    engines[0].script = Script(tokens=WORDS, stall_after=3)
    gateway = await start()
    link.show(member(engines[0], slots=1))
    await gateway.until(lambda: len(names(gateway)) == 1)
    running = streams(gateway, 1)
    link.show(member(engines[0], slots=1), member("", 1, state="loading"))
    await gateway.until(lambda: engines[0].stalled == 1)
    await gateway.until(lambda: gateway.app.registry.cluster._busy)
    await asyncio.sleep(0.2)  # whatever was to be reported of the first has been
    waited = asyncio.Event()
    link.on_report = lambda report: waited.set() if report.demand["m"].waiting else None
    waiting = streams(gateway, 1)
    async with asyncio.timeout(5):
        await waited.wait()
    engines[0].script = SLOW
    engines[0].resume()
    assert await asyncio.gather(*running, *waiting) == [TEXT, TEXT]


async def test_who_waits_in_vain_is_told_why_and_when_to_come_again(
    start: StartGateway, link: FakeLink
) -> None:
    gateway = await start("1", server={"queue_timeout": 0.05})
    status, body, _ = await gateway.post(chat())
    assert (status, body["error"]["code"]) == (503, "model_loading")
    link.lose("No head answers at 10.0.0.1:6379.")
    await gateway.until(lambda: gateway.app.models.default.state == "down")
    status, body, headers = await gateway.post(chat())
    assert (status, body["error"]["code"]) == (503, "model_loading")
    assert "cluster that runs the model can't be reached" in body["error"]["message"]
    assert "10.0.0.1" not in body["error"]["message"]  # which is for its operator
    assert int(headers["Retry-After"]) >= 1
    reason = (await gateway.get("/admin/v1/models", AS_ADMIN))[1]["data"][0]["reason"]
    assert reason.endswith("No head answers at 10.0.0.1:6379.")

    why = "No machine has room: 10.0.0.2 has 1 GiB free of 8 GiB that one engine needs."
    link.show(models=[ModelStatus("m", "d", 1, 1, 1, seconds_to_ready=40.0, why=why)])
    await gateway.until(lambda: gateway.app.models.default.state == "loading")
    status, body, headers = await gateway.post(chat())
    assert (status, body["error"]["code"]) == (503, "model_loading")
    assert "can't start an engine" in body["error"]["message"]
    assert "10.0.0.2" not in body["error"]["message"]
    assert 30 <= int(headers["Retry-After"]) <= 40
    entry = (await gateway.get("/admin/v1/models", AS_ADMIN))[1]["data"][0]
    assert entry["reason"].endswith(why)
    assert (entry["state"], entry["runs_here"], entry["backends"]) == ("loading", False, [])


async def test_a_gateway_serves_its_other_models_without_the_cluster(
    start: StartGateway, link: FakeLink, engine: ScriptedEngine
) -> None:
    other = {"name": "other", "backends": [{"url": engine.url}]}
    gateway = await start(models=[model(), other])
    link.lose("No head answers.")
    status, body, _ = await gateway.post(chat(model="other"))
    assert (status, body["choices"][0]["message"]["content"]) == (200, "Hello world")
    assert (await gateway.get("/health"))[1]["models"] == {"m": "down", "other": "ready"}
    assert (await gateway.get("/v1/models"))[0] == 200


async def test_no_stream_breaks_while_engines_join_leave_die_and_are_replaced(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    a, b, c = engines
    gateway = await start()
    link.show(member(a, 0))
    running = streams(gateway, 4)
    await gateway.until(lambda: gateway.pool().in_flight == 4)
    running += streams(gateway, 4)
    await gateway.until(lambda: gateway.pool().waiting == 4)
    link.show(member(a, 0), member(b, 1))  # those who wait get it
    await gateway.until(lambda: gateway.pool().in_flight == 8)
    link.show(member(a, 0, leaving=True), member(b, 1), member(c, 2))
    await gateway.until(lambda: len(names(gateway)) == 3)
    before = len(a.requests)
    running += streams(gateway, 3)
    await gateway.until(lambda: len(c.requests) == 3)
    assert len(a.requests) == before
    b.kill()
    link.show(member(a, 0), member(c, 2), ended=["u1"])  # it stays after all
    await gateway.until(lambda: names(gateway) == ["m/0", "m/2"])
    await b.restart()
    link.show(member(a, 0), member(b, 1, uid="new"), member(c, 2))
    await gateway.until(lambda: names(gateway) == ["m/0", "m/2", "m/1"])
    assert [await task for task in running] == [TEXT] * 11


async def test_a_removed_engine_ends_what_it_has_and_is_reported_until_then(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    a, b, _ = engines
    a.script = Script(tokens=WORDS, stall_after=7)
    gateway = await start()
    link.show(member(a, 0))
    (running,) = streams(gateway, 1)
    await gateway.until(lambda: a.stalled == 1)
    view = link.show(member(b, 0, uid="new"), ended=["u0"])
    await gateway.until(lambda: gateway.pool().states[0].backend.url == b.url)
    await gateway.until(lambda: link.reports[-1].version == view.version)
    assert link.reports[-1].running == {"u0": 1}
    a.resume()
    assert await running == TEXT
    assert (len(a.requests), len(b.requests)) == (1, 0)
    await gateway.until(lambda: a.connections == 0)
    await gateway.until(lambda: link.reports[-1].running == {})


async def test_streams_on_a_machine_that_has_gone_silent_go_on_once_it_is_said_to_have_ended(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    a, b, _ = engines
    a.script = Script(tokens=WORDS, stall_after=7)
    gateway = await start()
    link.show(member(a, 0))
    (running,) = streams(gateway, 1)
    await gateway.until(lambda: a.stalled == 1)
    a.healthy = False
    link.show(member(b, 0, uid="new"), ended=["u0"])
    assert await asyncio.wait_for(running, 10) == TEXT  # long before it stalled for too long
    assert len(b.requests) == 1


async def test_what_another_manager_does_not_list_stays_while_it_answers_probes(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    a, b, _ = engines
    gateway = await start()
    link.show(member(a, 0), member(b, 1))
    await gateway.until(lambda: len(names(gateway)) == 2)
    link.show(incarnation="b", complete=False)
    probes = len(a.probes)
    b.kill()
    view = link.show(incarnation="b")
    await gateway.until(lambda: names(gateway) == ["m/0"])
    await gateway.until(lambda: len(a.probes) > probes)
    await gateway.until(lambda: link.reports[-1].version == view.version)
    assert link.reports[-1].incarnation == "b"
    assert names(gateway) == ["m/0"]
    link.lose("The manager is gone.")
    assert await stream(gateway) == TEXT
    assert (await gateway.get("/health"))[1]["models"] == {"m": "ready"}


async def test_gateways_share_an_engines_memory(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    gateway = await start()

    def capacity() -> int | None:
        backend = gateway.pool().backends[0]
        assert (backend.slots, backend.context) == (4, 4096)
        return backend.capacity

    link.show(member(engines[0], kv_tokens=16384))
    await gateway.until(lambda: bool(names(gateway)))
    assert capacity() == 16384
    for gateways, expected in ((3, 5461), (8, 4096)):
        link.show(member(engines[0], kv_tokens=16384), gateways=gateways)
        await gateway.until(lambda expected=expected: capacity() == expected)


async def test_a_reload_keeps_engines_of_the_same_model_and_replaces_those_of_another(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    a, b, _ = engines
    gateway = await start()
    old = link.wanted["m"]
    link.show(member(a, 0, digest=old.spec.digest))
    pool = gateway.pool()
    (running,) = streams(gateway, 1)
    await gateway.until(lambda: pool.in_flight == 1)

    gateway.written["models"] = [model("2-3", context=2048)]
    await reload(gateway)
    assert gateway.pool() is pool
    new = link.wanted["m"]
    assert (new.least, new.spec.settings["context"]) == (2, 2048)
    assert (new.generation > old.generation, new.spec.digest != old.spec.digest) == (True, True)
    assert new.spec.family == old.spec.family

    gateway.written["models"] = [model("2-3", source="hf:o/r")]
    await reload(gateway)
    assert gateway.pool() is not pool
    latest = link.wanted["m"]
    link.show(member(a, 0, digest=old.spec.digest), member(b, 1, digest=latest.spec.digest))
    await gateway.until(lambda: names(gateway) == ["m/1"])
    assert await running == TEXT
    assert await stream(gateway) == TEXT
    assert (len(a.requests), len(b.requests)) == (1, 1)

    gateway.written["models"] = [{"name": "m", "backends": [{"url": a.url}]}]
    await reload(gateway)
    assert link.deployed[-1] == []
    assert await stream(gateway) == TEXT
    assert len(a.requests) == 2
    await gateway.until(lambda: b.connections == 0)


async def test_the_cluster_itself_changes_with_a_restart_alone(
    start: StartGateway, link: FakeLink, engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start()
    gateway.written["cluster"] = {"address": "10.0.0.9", "idle": 5}
    assert (await reload(gateway))["needs_restart"] == ["cluster.address", "cluster.idle"]
    assert link.wanted["m"].idle == 60.0

    without = await start_gateway(engine, environ=ADMIN)
    without.written |= {"cluster": CLUSTER, "models": [model()]}
    async with without.http.post(without.url + "/admin/v1/reload", headers=AS_ADMIN) as response:
        assert response.status == 400
        assert "restart it with [cluster]" in await response.text()


async def test_a_preview_asks_the_cluster_for_nothing(start: StartGateway, link: FakeLink) -> None:
    gateway = await start()
    deployed = len(link.deployed)
    gateway.written["models"] = [model(source="hf:o/r")]
    status, body, _ = (*await gateway.get("/admin/v1/reload", AS_ADMIN),)
    assert (status, body["changed"]) == (200, ["m.source"])
    assert len(link.deployed) == deployed


async def test_an_operator_sees_machines_drains_engines_and_loads_none(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    gateway = await start()
    link.show(member(engines[0], 0))
    await gateway.until(lambda: names(gateway) == ["m/0"])
    (entry,) = (await gateway.get("/admin/v1/backends", AS_ADMIN))[1]["data"]
    assert (entry["machine"], entry["kind"], entry["name"]) == ("10.0.0.2", "llamacpp", "m/0")
    assert "secret-key" not in json.dumps(entry)
    drained = {"model": "m", "backend": "m/0"}
    status, body, _ = await gateway.post(drained, "/admin/v1/backends/drain", AS_ADMIN)
    assert (status, body["reason"]) == (200, "draining")
    assert (await gateway.post(chat()))[0] == 503
    link.show(member(engines[1], 0, uid="new"), ended=["u0"])  # the replacement isn't drained
    await gateway.until(lambda: gateway.pool().states[0].backend.url == engines[1].url)
    assert await stream(gateway) == TEXT
    status, body, _ = await gateway.post({"model": "m"}, "/admin/v1/models/load", AS_ADMIN)
    assert (status, "runs in the cluster" in body["error"]["message"]) == (400, True)


async def test_labels_of_metrics_are_as_many_as_engines_may_run(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    gateway = await start()
    for turn in range(6):
        link.show(member(engines[turn % 3], 0, uid=f"u{turn}"))
        await gateway.until(
            lambda turn=turn: (
                [s.backend.url for s in gateway.pool().states] == [engines[turn % 3].url]
            )
        )
        assert await stream(gateway) == TEXT
    metrics = (await gateway.get("/metrics"))[1]
    found = {part.split('"')[1] for part in metrics.split("backend=")[1:]}
    assert found == {"m/0"}


async def test_a_request_that_the_engines_could_not_honour_is_refused_while_there_is_none(
    start: StartGateway, link: FakeLink
) -> None:
    gateway = await start()
    link.show()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    body = {"messages": [{"role": "user", "content": [image]}]}
    assert (await gateway.post(body, "/v1/chat/completions"))[0] == 400


async def test_an_engine_whose_address_cannot_be_used_is_told_once_and_left(
    start: StartGateway,
    link: FakeLink,
    engines: list[ScriptedEngine],
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = await start()
    bad = member("ftp://nowhere", 1)
    for _ in range(3):
        link.show(bad, member(engines[0], 0))
        await asyncio.sleep(0)
    await gateway.until(lambda: names(gateway) == ["m/0"])
    assert caplog.text.count("an engine can't be used") == 1


async def test_the_engines_run_on_when_the_gateway_stops(
    start: StartGateway, link: FakeLink
) -> None:
    gateway = await start()
    link.show()
    deployed = len(link.deployed)
    await gateway.app.stop()
    assert link.stopped
    assert len(link.deployed) == deployed


async def test_it_is_told_once_that_another_gateways_configuration_holds(
    start: StartGateway,
    link: FakeLink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cluster, "_DIFFERENCE_AFTER", 0.0)
    gateway = await start("1-3")
    digest = link.wanted["m"].spec.digest
    for most in (3, 4, 4):
        view = link.show(models=[ModelStatus("m", digest, 1, most, 1)])
        await gateway.until(lambda view=view: gateway.app.registry.cluster._heeded is view)
    assert caplog.text.count("another gateway's configuration") == 1
    assert (f"{digest}, 1-3 engines", f"{digest}, 1-4 engines") in [
        (record.fields["ours"], record.fields["theirs"])
        for record in caplog.records
        if hasattr(record, "fields") and "ours" in record.fields
    ]


async def test_a_model_whose_engines_all_failed_says_so_and_gets_over_it(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    gateway = await start("1", server={"queue_timeout": 0.05})
    why = "The model hf:o/r does not exist."
    link.show(member("", state="failed", why=why))
    await gateway.until(lambda: gateway.app.models.default.state == "failed")
    assert (await gateway.get("/health"))[0] == 503
    entry = (await gateway.get("/admin/v1/models", AS_ADMIN))[1]["data"][0]
    assert entry["reason"] == f"The model's engines fail to start: {why}"
    status, body, _ = await gateway.post(chat())
    assert (status, "fail to start" in body["error"]["message"]) == (503, True)
    link.show(member(engines[0], uid="new"), ended=["u0"])
    await gateway.until(lambda: gateway.app.models.default.state == "ready")
    assert await stream(gateway) == TEXT


async def test_engines_without_tls_are_not_used_where_the_cluster_speaks_it(
    start_gateway: StartGateway,
    link: FakeLink,
    engines: list[ScriptedEngine],
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = {f"tls_{name}": str(CERTIFICATE) for name in ("cert", "key", "ca")}
    gateway = await start_gateway(models=[model()], cluster={**CLUSTER, **files}, link=link)
    link.show(member(engines[0], 0), member("https://127.0.0.1:9/v1", 1))
    await gateway.until(lambda: names(gateway) == ["m/1"])
    assert "an engine can't be used" in caplog.text


async def test_an_engine_that_hangs_is_not_waited_for_by_those_who_find_another(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    a, b, _ = engines
    a.script = Script(tokens=WORDS, stall_after=3)
    gateway = await start(server={"stall_timeout": 0.3})
    link.show(member(a, 0))
    running = streams(gateway, 2)
    await gateway.until(lambda: a.stalled == 2)
    link.show(member(a, 0), member(b, 1))
    assert [await task for task in running] == [TEXT, TEXT]


async def test_a_hundred_streams_survive_engines_that_die_again_and_again(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    script = Script(tokens=WORDS, delay=0.002)
    for engine in engines:
        engine.script = script
    gateway = await start(server={"queue_size": 300})
    uids = ["u0", "u1", "u2"]

    def show(*alive: int, ended: str = "") -> None:
        link.show(
            *(member(engines[n], n, uid=uids[n], slots=16) for n in alive),
            ended=[ended] if ended else [],
        )

    show(0, 1, 2)
    running = streams(gateway, 100)
    for turn in range(6):
        await asyncio.sleep(0.1)
        victim = turn % 3
        engines[victim].kill()
        if turn % 2:  # the engine's supervisor restarts it, its machine and its name stay
            await asyncio.sleep(0.05)
            await engines[victim].restart()
            continue
        others = [n for n in range(3) if n != victim]
        show(*others, ended=uids[victim])
        uids[victim] = f"u{victim}-{turn}"
        await engines[victim].restart()
        show(0, 1, 2)
    assert [await task for task in running] == [TEXT] * 100
    assert sum(engine.died for engine in engines) > 10


async def test_those_who_wait_get_what_an_engine_has_room_for_once_gateways_are_fewer(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    engines[0].script = Script(tokens=WORDS, stall_after=3)
    gateway = await start()
    link.show(member(engines[0], kv_tokens=16384, context=2048), gateways=8)
    await gateway.until(lambda: bool(names(gateway)))
    large = {"messages": [{"role": "user", "content": "word " * 900}]}
    running = [asyncio.create_task(stream(gateway, **large)) for _ in range(3)]
    await gateway.until(lambda: gateway.pool().waiting == 2)
    link.show(member(engines[0], kv_tokens=16384, context=2048), gateways=1)
    await gateway.until(lambda: engines[0].stalled == 3)
    engines[0].resume()
    assert [await task for task in running] == [TEXT] * 3


async def test_a_view_of_many_engines_is_one_look_at_all_of_them(
    start: StartGateway, link: FakeLink, engines: list[ScriptedEngine]
) -> None:
    gateway = await start()
    pool, looks = gateway.pool(), 0
    serve = pool._serve_queue

    def look() -> float:
        nonlocal looks
        looks += 1
        return serve()

    pool._serve_queue = look  # type: ignore[method-assign]
    for gateways in (1, 2):
        view = link.show(
            *(member(engines[0], number, kv_tokens=16384) for number in range(50)),
            gateways=gateways,
        )
        await gateway.until(lambda view=view: link.reports[-1].version == view.version)
        assert len(pool.states) == 50
    await gateway.until(lambda: all(one.health is not None for one in pool.backends))
    assert looks == 2


async def test_requests_go_where_other_gateways_leave_slots_until_nothing_is_known_of_them(
    start: StartGateway,
    link: FakeLink,
    engines: list[ScriptedEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "IDLE_INTERVAL", 0.02)
    gateway = await start()
    link.show(member(engines[0], 0), member(engines[1], 1), gateways=2)
    await gateway.until(lambda: names(gateway) == ["m/0", "m/1"])
    link.tell_loads(Loads({"u0": 4, "another": 7}, {"m": 1, "n": 5}))
    states = gateway.pool().states
    await gateway.until(lambda: [state.elsewhere for state in states] == [4, 0])
    assert [state.gateways for state in states] == [2, 2]
    assert await asyncio.gather(*streams(gateway, 3)) == [TEXT] * 3
    assert [len(engine.requests) for engine in engines] == [0, 3, 0]
    link.show(member(engines[0], 0), member(engines[1], 1), member(engines[2], 2, uid="another"))
    await gateway.until(lambda: [state.elsewhere for state in states] == [4, 0, 7])
    monkeypatch.setattr(cluster, "_LOADS_LAST", 0.0)
    await gateway.until(lambda: [state.elsewhere for state in states] == [0, 0, 0])
