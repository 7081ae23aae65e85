"""What a server says that it is."""

from __future__ import annotations

import reverie
from tests.harness import Gateway


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
