"""What a Livepeer orchestrator does for its static, single-shot live runners.

Written after go-livepeer 0.9's ``ai/runner/live_runner.go`` and ``server/ai_http.go`` and Go's
``httputil.ReverseProxy``, whose ``Rewrite`` removes ``Forwarded`` and ``X-Forwarded-For``,
``-Host`` and ``-Proto``, adds none, and passes on all other headers of the caller.
"""

from __future__ import annotations

import json
import posixpath
import secrets
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

_NOT_PASSED_ON = frozenset(
    {
        *("connection", "proxy-connection", "keep-alive", "proxy-authenticate"),
        *("proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "host"),
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    }
)
_HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=3)


class Orchestrator:
    """An orchestrator on a free port; an async context manager.

    Args:
        config: the content of ``-liveRunnerConfig``.
    """

    def __init__(self, config: str) -> None:
        self._runners = {one["label"]: _checked(one) for one in json.loads(config)["runners"]}
        self._healthy: dict[str, bool] = {}
        self._http: aiohttp.ClientSession
        self._server: web.AppRunner
        self.url = ""
        self.sessions: dict[str, set[str]] = {label: set() for label in self._runners}
        """The requests that each runner has now, by their session's id."""
        self.secrets: set[str] = set()
        """What callbacks of a session are authorised with, and where they go."""

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/apps/{route}/app/{path:.*}", self._single_shot)
        app.router.add_get("/discovery", self._discovery)
        self._server = web.AppRunner(app, handler_cancellation=True)
        await self._server.setup()
        site = web.TCPSite(self._server, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._server.addresses[0][1]}"
        await self.check_health()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._server.cleanup()
        await self._http.close()

    async def check_health(self) -> None:
        """What it does at the start, and every five seconds."""
        for label, runner in self._runners.items():
            url = runner["runner_url"].rstrip("/") + runner["health_url"]
            async with self._http.get(url, timeout=_HEALTH_TIMEOUT) as response:
                self._healthy[label] = response.status == runner["healthy_status_code"]

    def app_url(self, label: str) -> str:
        """What its discovery says of a runner."""
        return f"{self.url}/apps/{label}/app"

    async def _discovery(self, _request: web.Request) -> web.Response:
        ready = [
            {
                "url": self.app_url(label),
                "app": runner["app"],
                "capacity": runner["capacity"],
                "capacity_used": len(self.sessions[label]),
            }
            for label, runner in self._runners.items()
            if self._healthy[label]
        ]
        return web.json_response([{"address": self.url, "runners": ready}])

    async def _single_shot(self, request: web.Request) -> web.StreamResponse:
        label = request.match_info["route"]
        runner = self._runners.get(label)
        if runner is None or not self._healthy[label]:
            return web.Response(status=404, text="runner not found\n")
        if len(self.sessions[label]) >= runner["capacity"]:
            return web.Response(status=503, text="no capacity available for runner\n")
        session = f"session_{secrets.token_hex(8)}"
        self.sessions[label].add(session)
        try:
            return await self._pass_on(request, runner, session)
        finally:
            self.sessions[label].discard(session)

    async def _pass_on(
        self, request: web.Request, runner: dict[str, Any], session: str
    ) -> web.StreamResponse:
        target = urlsplit(runner["runner_url"])
        token = secrets.token_hex(16)
        control = f"http://orchestrator.internal:8935/runner/{runner['label']}/session/{session}"
        self.secrets |= {token, control}
        headers = _passed_on(request.headers)
        headers["Host"] = target.netloc
        headers["Livepeer-Runner-Route"] = runner["label"]
        headers["Livepeer-Session-Id"] = session
        headers["Livepeer-Session-Token"] = token
        headers["Livepeer-Session-Control"] = control
        path = posixpath.join("/", target.path, request.match_info["path"])
        url = URL.build(
            scheme=target.scheme, authority=target.netloc, path=path, query=request.url.query
        )
        body = await request.read()
        async with self._http.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as upstream:
            response = web.StreamResponse(
                status=upstream.status, headers=_passed_on(upstream.headers)
            )
            await response.prepare(request)
            async for piece in upstream.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def _checked(runner: dict[str, Any]) -> dict[str, Any]:
    """An entry that go-livepeer would take, of the kind that it is here."""
    assert runner["label"].strip() == runner["label"] != ""
    assert "/" not in runner["label"]
    assert runner["app"].strip() == runner["app"] != ""
    assert (runner["routing"], runner["mode"]) == ("label", "single-shot")
    assert urlsplit(runner["runner_url"]).scheme in ("http", "https")
    assert runner["health_url"].startswith("/")
    assert runner["capacity"] >= 1
    assert runner["price_info"]["price"] > 0
    assert runner["price_info"]["currency"] == "usd"
    assert runner["price_info"]["unit"] in ("hour", "720p", "fixed")
    return runner


def _passed_on(headers: Any) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _NOT_PASSED_ON
    )
