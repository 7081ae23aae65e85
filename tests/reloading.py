"""Reloading a gateway's configuration, as an operator does."""

from __future__ import annotations

from typing import Any

from reverie.testing import Script, ScriptedEngine
from tests.harness import Gateway, chat

ADMIN_KEY = "an-admin-key-of-good-length"
ADMIN = {"REVERIE_ADMIN_KEY": ADMIN_KEY}
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
RELOAD = "/admin/v1/reload"


async def reload(gateway: Gateway) -> dict[str, Any]:
    """Reload, which succeeds; gives what changed."""
    async with gateway.http.post(gateway.url + RELOAD, headers=AS_ADMIN) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
    return answer


async def refused(gateway: Gateway) -> list[str]:
    """Reload, which is refused; gives the problems."""
    async with gateway.http.post(gateway.url + RELOAD, headers=AS_ADMIN) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (400, "invalid_request")
    problems: list[str] = answer["error"]["problems"]
    assert all(problem in answer["error"]["message"] for problem in problems)
    return problems


async def text(gateway: Gateway, **request: Any) -> str:
    """The answer to a request, which succeeds."""
    status, answer, _ = await gateway.post(chat(**request))
    assert status == 200, answer
    content: str = answer["choices"][0]["message"]["content"]
    return content


def says(*tokens: str) -> ScriptedEngine:
    return ScriptedEngine(Script(tokens=tokens))
