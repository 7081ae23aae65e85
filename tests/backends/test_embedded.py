"""Which constraints the embedded engine is trusted with. The rest: ``tests/faults/test_real_*``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reverie.backends.embedded import EmbeddedBackend
from reverie.errors import UnsupportedParameter
from reverie.request import GenerateRequest
from reverie.settings import DEFAULT_MODEL, ModelSettings

BOUNDS = {"type": "number", "minimum": 0.5}


def backend(engine: str) -> EmbeddedBackend:
    settings = ModelSettings(name="m", source=DEFAULT_MODEL, engine=engine)
    return EmbeddedBackend(settings, Path("m"), first_token_timeout=1, stall_timeout=1)


def test_the_wheel_is_trusted_with_more_than_a_binary(ask: Callable[..., GenerateRequest]) -> None:
    request = ask(response_format={"type": "json_schema", "json_schema": {"schema": BOUNDS}})
    backend("xllamacpp").check(request)
    with pytest.raises(UnsupportedParameter, match="minimum"):
        backend(sys.executable).check(request)
