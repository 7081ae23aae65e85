"""What a collector is shown of a request, with whole gateways over scripted engines."""

from __future__ import annotations

from reverie.testing import ScriptedEngine
from tests.gateway.traces.collector import Collector
from tests.harness import StartGateway, chat


async def test_a_request_is_one_tree(
    engine: ScriptedEngine, start_gateway: StartGateway, collector: Collector
) -> None:
    gateway = await start_gateway(engine, traces={"endpoint": collector.url})
    status, _, headers = await gateway.post(chat(), "/v1/chat/completions")
    assert status == 200
    await collector.until(lambda: collector.spans)
    [root] = collector.roots
    for s in collector.spans:
        print(s.raw)
    print(collector.tree(root), len(collector.exports[0].data))
    assert 0
