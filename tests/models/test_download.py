"""A download in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from reverie.errors import ModelError
from reverie.models.download import download

pytestmark = pytest.mark.integration


def program(code: str) -> list[str]:
    return [sys.executable, "-c", f"import json, os, sys, time\n{code}"]


async def run(code: str) -> tuple[int, list[tuple[int, int | None]]]:
    told: list[tuple[int, int | None]] = []
    size = await download("m", lambda done, total: told.append((done, total)), program(code))
    return size, told


async def test_tells_how_far_it_has_come_and_its_size() -> None:
    code = """
for told in ({"done": 1, "total": 0}, {"done": 2, "total": 7}, {"size": len(sys.argv[1])}):
    print(json.dumps(told))
"""
    assert await run(code) == (1, [(1, None), (2, 7)])


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ('print(json.dumps({"error": "The hub is asleep."}))', "The hub is asleep."),
        ("os.kill(os.getpid(), 9)", "The download ended before it was complete. Try again."),
    ],
)
async def test_a_failure_is_a_sentence(code: str, why: str) -> None:
    with pytest.raises(ModelError, match=f"^{why}$"):
        await run(code)


async def test_one_that_can_not_be_started_is_a_sentence() -> None:
    with pytest.raises(ModelError, match="can't be started: No such file"):
        await download("m", lambda *_: None, ["/nowhere/python"])


async def test_no_key_of_the_gateway_or_the_cluster_comes_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("REVERIE_CLUSTER_TOKEN", "REVERIE_API_KEYS", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("REVERIE_HOME", "/models")
    code = """
secrets = sum(value == "secret" for value in os.environ.values())
print(json.dumps({"size": secrets + 100 * (os.environ["REVERIE_HOME"] == "/models")}))
"""
    assert (await run(code))[0] == 100


async def test_it_has_ended_when_it_is_cancelled() -> None:
    code = 'print(json.dumps({"done": os.getpid(), "total": 1}), flush=True); time.sleep(60)'
    pids: list[int] = []
    begun = asyncio.Event()

    def progress(done: int, _: int | None) -> None:
        pids.append(done)
        begun.set()

    task = asyncio.create_task(download("m", progress, program(code)))
    await asyncio.wait_for(begun.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
