"""``/admin/v1/cluster``, and what else a gateway tells of models that run in a cluster."""

from __future__ import annotations

import asyncio
import json

from reverie.testing import Script, ScriptedEngine
from tests.gateway.cluster_views import NO_ROOM, SECRET, a_view, link_to, model
from tests.gateway.serving.fake_link import CLUSTER, FakeLink, member
from tests.harness import StartGateway, chat

PATH = "/admin/v1/cluster"
ADMIN = {"REVERIE_ADMIN_KEY": "a-very-secret-admin-key", "REVERIE_API_KEYS": "a-user-key"}
AS_ADMIN = {"Authorization": "Bearer a-very-secret-admin-key"}
AS_USER = {"Authorization": "Bearer a-user-key"}


async def test_the_operator_alone_sees_machines_models_and_engines(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN, cluster=CLUSTER, link=link_to(a_view()))
    status, answer, _ = await gateway.get(PATH, AS_ADMIN)
    assert status == 200
    assert [one["address"] for one in answer["machines"]] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert [one["name"] for one in answer["engines"]] == ["m/2", "m/3", "m/4", "m/10"]
    assert answer["models"][0]["why"] == NO_ROOM
    assert SECRET not in json.dumps(answer)
    assert (await gateway.get(PATH, AS_USER))[0] == 403
    status, refused, _ = await gateway.get(f"{PATH}?all=1", AS_ADMIN)
    assert (status, refused["error"]["code"]) == (400, "unsupported_parameter")

    assert (await gateway.get("/admin/v1/live", AS_ADMIN))[1]["cluster"] == answer
    text = (await gateway.get("/metrics", AS_USER))[1]
    assert 'reverie_cluster_engines{model="m",state="ready"} 2.0' in text.splitlines()
    assert SECRET not in text


async def test_since_tells_when_the_manager_ceased_to_answer(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    link = link_to(a_view())
    gateway = await start_gateway(engine, environ=ADMIN, cluster=CLUSTER, link=link)
    cluster = gateway.app.registry.cluster
    assert cluster is not None
    cluster.since = 0.0
    link.lose("The head is away.")
    await gateway.until(lambda: cluster.since > 0)
    _, answer, _ = await gateway.get(PATH, AS_ADMIN)
    assert (answer["connected"], answer["why"]) == (False, "The head is away.")
    assert len(answer["engines"]) == 4


async def test_without_a_cluster_there_is_none(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    status, answer, _ = await gateway.get(PATH, AS_ADMIN)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert answer["error"]["message"].startswith("No cluster is configured.")
    assert (await gateway.get("/admin/v1/live", AS_ADMIN))[1]["cluster"] is None
    assert "reverie_cluster" not in (await gateway.get("/metrics", AS_USER))[1]


async def test_a_model_is_told_of_from_cold_to_ready_and_lost(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    link = FakeLink()
    served = {"name": "m", "source": "smollm2-135m", "engines": "0-2"}
    gateway = await start_gateway(environ=ADMIN, models=[served], cluster=CLUSTER, link=link)

    async def told() -> tuple[int, str, str, bool]:
        ready, _, _ = await gateway.get("/readyz")
        _, health, _ = await gateway.get("/health")
        _, models, _ = await gateway.get("/v1/models", AS_USER)
        return ready, health["status"], health["models"]["m"], models["data"][0]["loaded"]

    link.show(models=[model("m", least=0, most=2, wanted=0)])
    await gateway.until(lambda: gateway.app.models.default.state == "cold")
    assert await told() == (200, "OK", "cold", False)

    link.show(member(engine), models=[model("m", least=0, most=2, wanted=1)])
    await gateway.until(lambda: gateway.app.models.default.state == "ready")
    assert await told() == (200, "OK", "ready", True)
    _, listed, _ = await gateway.get("/admin/v1/models", AS_ADMIN)
    [about] = listed["data"]
    assert (about["runs_here"], about["engines"]) == (False, "0-2")
    assert (about["backends"][0]["name"], about["backends"][0]["machine"]) == ("m/0", "10.0.0.2")

    engine.script = Script(tokens=("Hello", " world"), stall_after=1)
    asked = asyncio.create_task(gateway.post(chat(), headers=AS_USER))
    await gateway.until(lambda: engine.stalled)
    assert (await gateway.get(PATH, AS_ADMIN))[1]["engines"][0]["in_flight"] == 1
    engine.resume()
    assert (await asked)[0] == 200

    link.lose("The head is away.")
    assert await told() == (200, "OK", "ready", True)


async def test_a_model_without_room_for_an_engine_says_what_it_lacks(
    start_gateway: StartGateway,
) -> None:
    link = FakeLink()
    served = {"name": "m", "source": "smollm2-135m", "engines": 1}
    gateway = await start_gateway(environ=ADMIN, models=[served], cluster=CLUSTER, link=link)
    link.show(models=[model("m", least=1, most=1, wanted=1, why=NO_ROOM)])
    status, ready, _ = await gateway.get("/readyz")
    assert (status, ready["status"]) == (503, "LOADING")
    _, listed, _ = await gateway.get("/admin/v1/models", AS_ADMIN)
    assert NO_ROOM.rstrip(".") in listed["data"][0]["reason"]
