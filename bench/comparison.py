"""Asks Reverie and LiteLLM's proxy what becomes of a bad moment, and prints a table.

Both stand in front of the same two engines, which are scripted: they fail when they are told to.
Nothing is measured here; each cell is what a client, or the engine, saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from installed import Missing
from installed import litellm as install_litellm
from rich.console import Console
from rich.table import Table
from servers import litellm_model, litellm_proxy, reverie

from reverie.testing import Script, ScriptedEngine

_WORDS = ("One", " two", " three", " four", " five", " six", " seven", " eight")
_PACE = 0.2  # as tokens come, so that none is waited for together with the next
_WHOLE = "".join(_WORDS)
_BODY = {"model": "m", "messages": [{"role": "user", "content": "Count to eight."}]}


class Gateway(NamedTuple):
    """A gateway, the two engines behind it, and a client of it."""

    url: str
    engines: list[ScriptedEngine]
    http: aiohttp.ClientSession

    def next_answers(self, **fault: Any) -> None:
        """Let the next answer go wrong, whichever engine gives it; later ones are good."""
        scripts = [Script(tokens=_WORDS, delay=_PACE, **fault)]
        for engine in self.engines:
            engine.script = Script(tokens=_WORDS, delay=_PACE)
            engine.scripts = scripts

    def ask(self, stream: bool, **headers: str) -> Any:
        body = {**_BODY, "stream": stream}
        return self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    @property
    def generations(self) -> int:
        return sum(len(engine.requests) for engine in self.engines)


async def a_stream_whose_engine_dies(gateway: Gateway) -> str:
    gateway.next_answers(die_after=3)
    async with gateway.ask(True) as response:
        try:
            raw = (await response.read()).decode()
        except aiohttp.ClientError:
            return "the connection breaks"
    text, error, done = "", "", "[DONE]" in raw
    for line in raw.splitlines():
        if line.startswith("data: {"):
            chunk = json.loads(line.removeprefix("data: "))
            error = error or str(chunk.get("error") or "")
            for choice in chunk.get("choices", ()):
                text += choice.get("delta", {}).get("content") or ""
    end = "an end" if done else "no end"
    if text == _WHOLE and done and not error:
        return "whole, to the letter"
    if text.startswith(_WHOLE[:5]) and _WHOLE in text[5:]:
        return f"the beginning twice, {end}"
    return f"cut after {text!r}, {'an error' if error else 'no error'}, {end}"


async def an_answer_whose_engine_dies(gateway: Gateway) -> str:
    gateway.next_answers(die_after=3)
    async with gateway.ask(False) as response:
        body = await response.json()
    if response.status != 200:
        return f"an error, {response.status}"
    whole = body["choices"][0]["message"]["content"] == _WHOLE
    return "whole" if whole else "cut, and looks whole"


async def the_same_request_twice(gateway: Gateway) -> str:
    gateway.next_answers()
    before, key = gateway.generations, secrets.token_hex(8)
    for _ in range(2):
        async with gateway.ask(False, **{"Idempotency-Key": key}) as response:
            await response.read()
    made = gateway.generations - before
    return f"{made} generation{'s' if made > 1 else ''}"


async def a_client_that_leaves(gateway: Gateway) -> str:
    gateway.next_answers(stall_after=3)
    before = sum(engine.cancelled for engine in gateway.engines)
    async with gateway.ask(True) as response:
        await response.content.readany()
        response.close()
    for _ in range(100):
        if sum(engine.cancelled for engine in gateway.engines) > before:
            return "the engine stops"
        await asyncio.sleep(0.05)
    return "the engine goes on (5 s)"


async def a_wrong_field(gateway: Gateway) -> str:
    gateway.next_answers()
    before = gateway.generations
    body = {**_BODY, "max_tokens": "many"}
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
        raw = await response.text()
    asked = "the engine was asked" if gateway.generations > before else "no engine was asked"
    named = "named" if "max_tokens" in raw else "not named"
    return f"{response.status}, field {named}, {asked}"


PROBES: dict[str, Callable[[Gateway], Awaitable[str]]] = {
    "a stream whose engine dies after 3 of 8 words": a_stream_whose_engine_dies,
    "a JSON answer whose engine dies": an_answer_whose_engine_dies,
    "the same request twice, with one Idempotency-Key": the_same_request_twice,
    "a client that leaves in mid-answer": a_client_that_leaves,
    'max_tokens: "many"': a_wrong_field,
}


@contextlib.asynccontextmanager
async def of_reverie(urls: list[str], folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Reverie over both engines; its URL and a key."""
    backends = "".join(f'[[models.backends]]\nurl = "{url}"\nkind = "vllm"\n' for url in urls)
    config = f'[store]\nurl = "sqlite:///{folder}/r.db"\n[[models]]\nname = "m"\n{backends}'
    async with reverie(config, folder) as target:
        yield target.url, "none"


@contextlib.asynccontextmanager
async def of_litellm(urls: list[str], folder: Path) -> AsyncIterator[tuple[str, str]]:
    """LiteLLM's proxy over both engines, each the other's fallback; its URL and a key."""
    models = [litellm_model(name, urls[at]) for name, at in [("m", 0), ("m", 1), ("m2", 1)]]
    settings = {"num_retries": 2, "fallbacks": [{"m": ["m2"]}]}
    config = {"model_list": models, "router_settings": settings}
    async with litellm_proxy(install_litellm().path, config, folder) as target:
        yield target.url, str(target.secrets[0])


CONTESTANTS = {"Reverie": of_reverie, "LiteLLM": of_litellm}


async def answers(contestant: str) -> list[str]:
    """What each probe saw."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(ScriptedEngine()) for _ in range(2)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opened = CONTESTANTS[contestant]([engine.url for engine in engines], folder)
        url, key = await stack.enter_async_context(opened)
        http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"})
        gateway = Gateway(url, engines, await stack.enter_async_context(http))
        seen = []
        for probe in PROBES.values():
            async with asyncio.timeout(120):
                seen.append(await probe(gateway))
        return seen


async def main() -> None:
    table = Table("what happens", *CONTESTANTS)
    columns = []
    for contestant in CONTESTANTS:
        try:
            columns.append(await answers(contestant))
        except Missing as error:
            sys.exit(str(error))
    for row in zip(PROBES, *columns, strict=True):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
