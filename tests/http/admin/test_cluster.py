"""``/admin/v1/cluster``, and the cluster in what else a gateway tells."""

from __future__ import annotations

import json

from reverie.testing import ScriptedEngine
from tests.gateway.scripted_cluster import NO_ROOM, SECRET, ScriptedCluster, a_view
from tests.harness import Gateway, StartGateway

PATH = "/admin/v1/cluster"
ADMIN = {"REVERIE_ADMIN_KEY": "a-very-secret-admin-key", "REVERIE_API_KEYS": "a-user-key"}
AS_ADMIN = {"Authorization": "Bearer a-very-secret-admin-key"}
AS_USER = {"Authorization": "Bearer a-user-key"}


async def clustered(start_gateway: StartGateway, engine: ScriptedEngine) -> Gateway:
    gateway = await start_gateway(engine, environ=ADMIN)
    gateway.app.registry.cluster = ScriptedCluster(a_view())
    return gateway


async def test_the_operator_alone_sees_machines_models_and_engines(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    gateway = await clustered(start_gateway, engine)
    status, answer, _ = await gateway.get(PATH, AS_ADMIN)
    assert status == 200
    assert [one["address"] for one in answer["machines"]] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert [one["name"] for one in answer["engines"]] == ["m/2", "m/3", "m/4", "m/10"]
    assert answer["models"][0]["why"] == NO_ROOM
    assert SECRET not in json.dumps(answer)
    assert (await gateway.get(PATH, AS_USER))[0] == 403
    status, answer, _ = await gateway.get(f"{PATH}?all=1", AS_ADMIN)
    assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")


async def test_live_and_metrics_tell_of_it_too(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    gateway = await clustered(start_gateway, engine)
    _, live, _ = await gateway.get("/admin/v1/live", AS_ADMIN)
    assert live["cluster"] == (await gateway.get(PATH, AS_ADMIN))[1]
    text = (await gateway.get("/metrics", AS_USER))[1]
    assert 'reverie_cluster_engines{model="m",state="ready"} 2.0' in text.splitlines()
    assert SECRET not in text


async def test_without_a_cluster_there_is_none(
    start_gateway: StartGateway, engine: ScriptedEngine
) -> None:
    gateway = await start_gateway(engine, environ=ADMIN)
    status, answer, _ = await gateway.get(PATH, AS_ADMIN)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert answer["error"]["message"].startswith("No cluster is configured.")
    assert (await gateway.get("/admin/v1/live", AS_ADMIN))[1]["cluster"] is None
    assert "reverie_cluster" not in (await gateway.get("/metrics", AS_USER))[1]
