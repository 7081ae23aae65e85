from __future__ import annotations

import pytest
from yarl import URL

from reverie.http.connection.paths import normal
from reverie.testing import ScriptedEngine
from tests.harness import StartGateway


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("/llm", "/llm"),
        ("/llm/", "/llm"),
        ("//llm//", "/llm"),
        ("/v1///chat//completions", "/v1/chat/completions"),
        ("/", "/"),
        ("//", "/"),
        ("", "/"),
    ],
)
def test_slashes_that_say_nothing_are_left_out(written: str, known: str) -> None:
    assert normal(written) == known


async def test_a_newline_at_the_end_of_a_path_is_no_spelling_of_it(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    """A proxy that answers /metrics itself, in place of the gateway, would let it by."""
    gateway = await start_gateway(engine)
    for path in ("/metrics%0A", "/metrics/%0A", "/v1/models%0a", "/readyz%0A"):
        async with gateway.http.get(URL(gateway.url + path, encoded=True)) as response:
            assert response.status == 404, path
