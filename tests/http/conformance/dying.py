"""Two engines of which the next answer's may die."""

from __future__ import annotations

from typing import Any

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, StartGateway
from tests.http.conformance.routes import SERVER

TOKENS = ("One", " two", "\n", "\n", "né🙂", "b'“", ".")
WAYS = ("reset", "close", "end")


async def start(
    start_gateway: StartGateway, engines: list[ScriptedEngine], **backend: Any
) -> Gateway:
    return await start_gateway(*engines, server=SERVER, backend={"kind": "vllm", **backend})


def next_answer(engines: list[ScriptedEngine], **fields: Any) -> None:
    """Let the next answer go wrong, whichever engine gives it."""
    scripts = [Script(**{"tokens": TOKENS, "cached_tokens": 4, **fields})]
    for engine in engines:
        engine.scripts = scripts
