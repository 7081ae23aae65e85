"""What Prometheus reads."""

from __future__ import annotations

import re

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, chat


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
        'reverie_queue_length{model="m"} 0.0',
    ):
        assert line in text.splitlines()
    for gauge, value in (("in_flight", 0), ("slots", 64), ("backend_ready", 1)):
        pattern = rf'^reverie_{gauge}\{{backend="0:127.0.0.1:\d+",model="m"\}} {value}\.0$'
        assert re.search(pattern, text, re.MULTILINE)
