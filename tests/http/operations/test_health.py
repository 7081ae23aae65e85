"""What load balancers ask."""

from __future__ import annotations

import pytest

from tests.harness import Gateway


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz"])
async def test_head_is_answered_as_get_is_without_the_body(
    gateway: Gateway, path: str, draining: bool
) -> None:
    gateway.app.in_flight.draining = draining
    status, _, headers = await gateway.get(path)
    async with gateway.http.head(gateway.url + path) as head:
        assert (head.status, await head.read()) == (status, b"")
        assert head.headers["content-length"] == headers["content-length"]
