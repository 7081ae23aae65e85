"""Prompts, answers and keys are written nowhere, whatever goes wrong: ``tests.leaks`` listens."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from reverie.testing import Script, ScriptedEngine
from tests import leaks
from tests.harness import StartGateway, chat

PROMPT = f"{leaks.PLANTED}question"
ANSWER = f"{leaks.PLANTED}answer"
KEY, ENGINE_KEY, ADMIN = (
    "rv_caller-of-this-test",
    "rv_engine-of-this-test",
    "rv_admin-of-this-test",
)
ECHO = json.dumps({"error": {"message": f"{PROMPT} by Bearer {ENGINE_KEY}", "code": 500}}).encode()
BODIES: dict[str, dict[str, Any]] = {
    "/llm": chat(PROMPT),
    "/v1/chat/completions": chat(PROMPT, stream=True),
    "/v1/completions": {"prompt": PROMPT},
    "/v1/messages": chat(PROMPT, max_tokens=5),
    "/v1/responses": {"input": PROMPT},
}
FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "dies": {"die_after": 1},
    "refuses": {"status": 500, "body": ECHO},
    "garbage": {"raw": b"HTTP/1.1 " + PROMPT.encode() + b"\r\n\r\n"},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_neither_logs_nor_metrics_have_what_was_said(
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    tmp_path: Path,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    engine.script = Script(tokens=(ANSWER, " more"), **FAULTS[fault])
    gateway = await start_gateway(
        engine,
        environ={"REVERIE_API_KEYS": KEY, "REVERIE_ADMIN_KEY": ADMIN, "ENGINE_KEY": ENGINE_KEY},
        backend={"api_key_env": "ENGINE_KEY"},
        server={"access_log": str(tmp_path / "access.log"), "stall_timeout": 0.5},
    )
    headers = {"Authorization": f"Bearer {KEY}", "User-Agent": f"a client of {KEY}"}
    for path, body in BODIES.items():
        async with gateway.http.post(gateway.url + path, json=body, headers=headers) as answer:
            said = await answer.read()
            assert (ANSWER.encode() in said) == (fault in ("none", "dies") and answer.status == 200)
            assert PROMPT.encode() not in said
            assert KEY.encode() not in said
    await gateway.post({"name": "a"}, "/admin/v1/keys", {"Authorization": f"Bearer {ADMIN}"})
    for wrong in (KEY[:-1], ADMIN[:-1]):
        await gateway.post(chat(PROMPT), "/llm", {"Authorization": f"Bearer {wrong}"})
    await gateway.get("/metrics")
    assert engine.requests[0].headers["authorization"] == f"Bearer {ENGINE_KEY}"
    assert any(one.name == "reverie.request" for one in caplog.records)
