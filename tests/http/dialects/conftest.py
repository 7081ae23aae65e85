from __future__ import annotations

import pytest

from reverie.http.dialects import LIVEPEER, OPENAI
from reverie.http.dialects.base import Dialect


@pytest.fixture(params=[LIVEPEER, OPENAI], ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen
