"""One model's backends, until the last request that holds them has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.settings import BackendSettings, ModelSettings, ServerSettings
from tests.gateway.scheduling.fake_backend import FakeBackend


class Backend(FakeBackend):
    """A backend that counts its stops, and knows its timeouts."""

    stops = 0
    timeouts: tuple[float, float] | None = None

    def set_timeouts(self, *, first_token: float, stall: float) -> None:
        self.timeouts = (first_token, stall)

    async def stop(self) -> None:
        self.stops += 1


URL = BackendSettings(url="http://127.0.0.1:9100/v1")


def model(**more: Any) -> ModelSettings:
    return ModelSettings(**{"name": "m", "backends": (URL,), **more})


def deployment(*backends: FakeBackend, on_change: Callable[[], None] = lambda: None) -> Deployment:
    return Deployment(model(), backends, ServerSettings(), MemoryBudget(0), on_change)


@pytest.mark.parametrize(
    "more",
    [
        {"aliases": ("x",)},
        {"default": True},
        {"price": {"input": "1USD", "output": "1USD"}},
        {"limits": {"rpm": 1}},
        {"warm": False},
        {"idle_unload": 60},
    ],
)
def test_what_the_backends_are_not_built_from_may_change(more: dict[str, Any]) -> None:
    assert deployment(Backend("a")).can_serve(model(**more))


@pytest.mark.parametrize(
    "more",
    [
        {"backends": (BackendSettings(url="http://127.0.0.1:9200/v1"),)},
        {"backends": (URL.with_key(SecretStr("k")),)},
        {"backends": (URL, URL)},
        {"slots": 3},
        {"context": 512},
        {"source": "m.gguf", "backends": ()},
    ],
)
def test_any_other_change_needs_other_backends(more: dict[str, Any]) -> None:
    assert not deployment(Backend("a")).can_serve(model(**more))


def test_backends_that_have_failed_for_good_are_not_kept() -> None:
    backend = Backend("a", ready=False)
    backend.failure = "It ended with status 1."
    assert not deployment(backend).can_serve(model())


def test_an_update_reaches_the_backends_that_run_on() -> None:
    backends = [Backend("a"), Backend("b")]
    deployed = deployment(*backends)
    deployed.update(model(aliases=("x",)), ServerSettings(first_token_timeout=1, stall_timeout=2))
    assert deployed.model.aliases == ("x",)
    assert [backend.timeouts for backend in backends] == [(1, 2), (1, 2)]


async def test_it_drains_until_the_last_request_that_holds_it_ends() -> None:
    backends = [Backend("a"), Backend("b")]
    deployed = deployment(*backends)
    stopped = asyncio.Event()
    deployed.hold()
    with deployed.held():
        deployed.drain(lambda _: stopped.set())
    await asyncio.sleep(0)
    assert [backend.stops for backend in backends] == [0, 0]
    deployed.release()
    await asyncio.wait_for(stopped.wait(), 10)
    assert [backend.stops for backend in backends] == [1, 1]


async def test_one_that_nobody_holds_is_stopped_at_once() -> None:
    backend, stopped = Backend("a"), asyncio.Event()
    deployment(backend).drain(lambda _: stopped.set())
    await asyncio.wait_for(stopped.wait(), 10)
    assert backend.stops == 1


async def test_a_backend_that_fails_to_stop_keeps_no_other_from_stopping() -> None:
    class Stubborn(Backend):
        async def stop(self) -> None:
            raise OSError("no")

    backend = Backend("b")
    await deployment(Stubborn("a"), backend).stop()
    assert backend.stops == 1
