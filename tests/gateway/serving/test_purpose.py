"""What a model is for."""

from __future__ import annotations

from typing import get_args

import pytest

from reverie.errors import WrongTask
from reverie.gateway.serving.purpose import require_task
from reverie.settings import ModelSettings
from reverie.tasks import Task


@pytest.mark.parametrize("own", get_args(Task))
def test_a_model_is_asked_for_what_it_is_for_alone(own: Task) -> None:
    model = ModelSettings(name="m", source="file", task=own)
    for task in get_args(Task):
        if task == own:
            require_task(model, task)
            continue
        with pytest.raises(WrongTask) as refused:
            require_task(model, task)
        assert refused.value.param == "model"
        assert "/v1/" in str(refused.value)
