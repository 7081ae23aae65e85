"""What a server says that it is."""

from __future__ import annotations

import pytest

import reverie
from tests.gateway.serving.fake_link import CLUSTER, FakeLink
from tests.harness import Gateway, StartGateway
from tests.runner.test_gpus import driver as driver


async def test_a_server_says_what_it_is(gateway: Gateway) -> None:
    about = {"pipeline": "llm", "model_id": "m"}
    assert (await gateway.get("/version"))[1] == {**about, "version": reverie.__version__}
    for path, gpus in (("/hardware/info", "gpu_info"), ("/hardware/stats", "gpu_stats")):
        status, body, _ = await gateway.get(path)
        assert status == 200
        assert about.items() <= body.items()
        assert isinstance(body[gpus], dict)
        assert body["cpu"]["cores"] >= 1
        assert 0 < body["memory"]["free"] <= body["memory"]["total"]


@pytest.mark.integration
@pytest.mark.usefixtures("driver")
async def test_this_machine_s_gpus_are_not_those_of_a_model_in_a_cluster(
    start_gateway: StartGateway,
) -> None:
    served = {"name": "m", "source": "smollm2-135m", "engines": 1}
    gateway = await start_gateway(models=[served], cluster=CLUSTER, link=FakeLink())
    for path, gpus in (("/hardware/info", "gpu_info"), ("/hardware/stats", "gpu_stats")):
        _, body, _ = await gateway.get(path)
        assert (body["model_id"], body[gpus]) == ("m", {})
        assert body["memory"]["total"]
