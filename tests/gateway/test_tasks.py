"""Who is asked for what isn't generation. Retries are tested in ``http/tasks/test_route.py``."""

from __future__ import annotations

from typing import Any, cast

import pytest

from reverie.errors import WrongTask
from reverie.gateway.scheduling.pool import Pool
from reverie.gateway.serving.served_models import ServedModels
from reverie.gateway.tasks import model_for, size_on
from reverie.settings import ModelSettings, Settings
from reverie.tasks import EmbedRequest
from tests.gateway.scheduling.fake_backend import FakeBackend


def served(*models: tuple[str, str]) -> ServedModels:
    settings = Settings(
        models=tuple(
            ModelSettings.model_validate({"name": name, "task": task, "source": "file"})
            for name, task in models
        )
    )
    nothing: Any = cast(Any, None)
    return ServedModels(settings, {name: nothing for name, _ in models})


def test_a_model_is_found_by_its_name_or_by_what_it_is_for() -> None:
    models = served(("chat", "generate"), ("vectors", "embed"), ("more", "embed"))
    assert model_for(models, "more", "embed").name == "more"
    assert model_for(models, "", "embed").name == "vectors"
    assert model_for(models, "", "generate").name == "chat"
    with pytest.raises(WrongTask, match="chat generates text"):
        model_for(models, "chat", "embed")
    with pytest.raises(WrongTask, match="chat generates text"):
        model_for(models, "", "rerank")


def test_no_text_counts_for_more_than_a_context_and_all_count_together() -> None:
    backend = FakeBackend("b")
    pool = Pool("m", [backend], queue_size=1, queue_timeout=1)
    request = EmbedRequest([[1] * 100, [1] * 1000, [1] * 1000])
    assert size_on(pool, request) == 2100
    backend.context = 512
    assert size_on(pool, request) == 100 + 512 + 512
