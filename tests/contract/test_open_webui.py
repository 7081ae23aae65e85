"""Open WebUI's requests, as `bench/open_webui.py` recorded them of the real one, sent again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reverie.testing import ScriptedEngine
from tests.harness import StartGateway

pytestmark = pytest.mark.integration

RECORDED = json.loads((Path(__file__).parent / "open_webui.json").read_text())


async def test_each_of_its_requests_is_answered(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(
        engine, model={"name": "smollm2-135m"}, environ={"REVERIE_API_KEYS": "a-key"}
    )
    asked = []
    for recorded in RECORDED:
        headers = recorded["headers"] | {"Authorization": "Bearer a-key"}
        del headers["Accept-Encoding"]  # as this client can
        sent = recorded["body"]
        async with gateway.http.request(
            recorded["method"], gateway.url + recorded["path"], headers=headers, json=sent
        ) as answer:
            assert answer.status == 200, (sent, await answer.text())
            text = await answer.text()
        asked.append((recorded["path"], bool(sent and sent["stream"])))
        if sent is None:
            assert json.loads(text)["data"][0]["id"] == "smollm2-135m"
        elif sent["stream"]:
            assert text.endswith("data: [DONE]\n\n")
        else:
            assert json.loads(text)["choices"][0]["message"]["content"] == "Hello world"
    assert ("/v1/models", False) in asked
    assert {("/v1/chat/completions", False), ("/v1/chat/completions", True)} <= set(asked)
