"""An engine in a process of its own: three scripted engines that fail together.

One says short answers quickly, one takes its time, one calls a tool. Each line of standard input is
an order: ``{"fault": {FIELD OF Script: …}, "count": N}`` has the next N requests of each fail so,
``{}`` ends that. At the end of its input it ends. It says ``listening`` when it can be asked.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from reverie.testing import Script, ScriptedEngine, ToolCall
from soaking import texts

QUICK = Script(tokens=texts.tokens_for, prompt_tokens=texts.PROMPT_TOKENS, batch=4, delay=0.004)
SLOW = dataclasses.replace(QUICK, batch=1, delay=0.03)
CALLER = dataclasses.replace(
    QUICK, tokens=(), batch=1, tool_calls=(ToolCall(name=texts.CALL[0], arguments=texts.CALL[1]),)
)


async def serve(ports: list[int]) -> None:
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with AsyncExitStack() as stack:
        engines = []
        for port, script in zip(ports, (QUICK, SLOW, CALLER), strict=True):
            engine = ScriptedEngine(script, port=port, record=False)
            engine.owned_by = "vllm"
            engine.count = lambda _body: texts.PROMPT_TOKENS
            engines.append(await stack.enter_async_context(engine))
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        async for line in orders:
            order: dict[str, Any] = json.loads(line)
            for engine in engines:
                fault = dataclasses.replace(engine.script, **order.get("fault", {}))
                engine.scripts = [fault] * order.get("count", 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ports", type=int, nargs=3)
    uvloop.run(serve(parser.parse_args().ports))
