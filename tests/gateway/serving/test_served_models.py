"""The models of one configuration, by name: their price, limits and state."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.errors import ModelNotFound
from reverie.gateway.serving.deployment import Deployment
from reverie.gateway.serving.memory_budget import MemoryBudget
from reverie.gateway.serving.served_models import ServedModels
from reverie.settings import ServerSettings, Settings
from reverie.store.limits import RateLimits
from tests.gateway.scheduling.fake_backend import FakeBackend


def served(
    *models: dict[str, Any], before: ServedModels | None = None, ready: bool = True
) -> ServedModels:
    settings = Settings.model_validate(
        {"models": [{"backends": [{"url": "http://h/v1"}], **model} for model in models]}
    )
    deployments = {
        model.name: Deployment(
            model,
            [FakeBackend("a", ready=ready)],
            ServerSettings(),
            MemoryBudget(0),
            lambda: None,
        )
        for model in settings.models
    }
    return ServedModels(settings, deployments, before)


def test_a_model_is_found_by_its_names_and_the_default_by_none() -> None:
    models = served({"name": "a", "aliases": ["x", "y"]}, {"name": "b", "default": True})
    assert [models.find(name).name for name in ("a", "x", "y", "b", "")] == [
        "a",
        "a",
        "a",
        "b",
        "b",
    ]
    assert models.find("x").names == ("a", "x", "y")


def test_the_error_for_an_unknown_name_lists_the_models_and_does_not_repeat_it() -> None:
    with pytest.raises(ModelNotFound) as caught:
        served({"name": "a"}, {"name": "b"}).find("<script>")
    assert "Models: a, b." in str(caught.value)
    assert "script" not in str(caught.value)


def test_prices_are_integers_per_token_and_limits_are_those_configured() -> None:
    model = served(
        {
            "name": "a",
            "price": {"input": "1USD", "output": "10USD", "cached": "0.5USD"},
            "limits": {"rpm": 1, "tpm": 2, "concurrency": 3},
        }
    ).default
    assert model.price.cost(10, 0, 2) == 10 * 1000 + 2 * 10_000
    assert model.price.cost(10, 4, 0) == 6 * 1000 + 4 * 500
    assert model.limits == RateLimits(1, 2, 3)


def test_cached_tokens_cost_as_much_as_others_unless_they_have_a_price() -> None:
    price = served({"name": "a", "price": {"input": "1USD", "output": "1USD"}}).default.price
    assert price.cost(10, 10, 0) == price.cost(10, 0, 0) == 10_000


def test_a_model_that_stays_keeps_the_time_since_when_it_is_served() -> None:
    before = served({"name": "a"})
    before.default.created = 7
    after = served({"name": "a"}, {"name": "b"}, before=before)
    assert after.find("a").created == 7
    assert after.find("b").created > 7


def test_a_model_is_ready_loading_or_failed_as_its_backends_are() -> None:
    model = served({"name": "a"}, ready=False).default
    assert (model.state, model.available) == ("loading", False)
    [backend] = model.pool.backends
    backend.ready = True  # type: ignore[misc]
    assert (model.state, model.available) == ("ready", True)
    backend.ready = False  # type: ignore[misc]
    backend.failure = "It ended with status 1."  # type: ignore[misc]
    assert (model.state, model.available) == ("failed", False)
