"""Builds the application: settings in, an ASGI callable with ``start`` and ``stop`` out."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import reverie
from reverie.addresses import require_keys
from reverie.backends.base import Backend
from reverie.cluster.link import Link
from reverie.errors import ConfigurationError, ReverieError, StoreFailure
from reverie.gateway.accounts.admission import Admission
from reverie.gateway.accounts.authentication import Authenticator, admin_key, static_keys
from reverie.gateway.accounts.kept_answers import KeptAnswers
from reverie.gateway.accounts.ledger import Ledger
from reverie.gateway.accounts.retention import Retention
from reverie.gateway.cluster_view import describe_cluster
from reverie.gateway.metrics import Metrics
from reverie.gateway.pulls import Pulls
from reverie.gateway.serving.config_diff import Changes
from reverie.gateway.serving.registry import ModelRegistry
from reverie.gateway.serving.served_models import ServedModels
from reverie.gateway.siblings import ALONE, Siblings
from reverie.gateway.traces.tracer import Tracer, tracer_of
from reverie.http.access import Access
from reverie.http.admin.application import add_admin
from reverie.http.connection.exchange import (
    Receive,
    Scope,
    Send,
)
from reverie.http.connection.in_flight import InFlight
from reverie.http.connection.paths import normal
from reverie.http.connection.senders import with_headers, without_body
from reverie.http.cors import Cors
from reverie.http.idempotency.replays import Replays
from reverie.http.operations import application
from reverie.http.routes import Routes
from reverie.http.siblings import answers
from reverie.reload import Reloader, warn_of_own_backends
from reverie.settings import NO_STORE, ClusterSettings, ModelSettings, Settings
from reverie.store.database.engine import Store
from reverie.store.database.migrate import migrate
from reverie.times import format_moment, now_ms

__all__ = ["Application"]

logger = logging.getLogger("reverie")


def open_store(settings: Settings) -> Store | None:
    """The configured store; nothing connects yet.

    Raises:
        ConfigurationError: its URL can't be used.
    """
    return None if settings.store.url == NO_STORE else Store(settings.store)


def authenticator(
    settings: Settings,
    store: Store | None,
    environ: Mapping[str, str] = os.environ,
    static: Sequence[tuple[bytes, str]] | None = None,
) -> Authenticator:
    """The configured static keys, and the keys in the store.

    Args:
        static: the static keys, if they are known already.

    Raises:
        ConfigurationError: the keys can't be read.
    """
    if static is None:
        static = static_keys(environ, settings.server.api_keys_file)
    return Authenticator(static, store, admin_key(environ))


def _child_link(environ: Mapping[str, str], cluster: ClusterSettings) -> Link:
    """The link to a cluster: over a child process, which alone speaks to Ray."""
    from reverie.cluster.child_link import ChildLink

    return ChildLink(cluster, environ)


class Application:
    """Reverie as an ASGI application.

    Args:
        backends: replaces what the settings describe, for tests and for embedding.
        read_settings: reads the configuration for a reload; by default a reload changes nothing.
        registry: what is served, if it isn't built from the settings.
        static: the static keys, if they aren't to be read.
        siblings: the other processes that serve beside this one.
        link: makes the link to the configured cluster; by default a child process is one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str] = os.environ,
        backends: Sequence[tuple[ModelSettings, Sequence[Backend]]] | None = None,
        read_settings: Callable[[], Settings] | None = None,
        registry: ModelRegistry | None = None,
        static: Sequence[tuple[bytes, str]] | None = None,
        siblings: Siblings = ALONE,
        link: Callable[[ClusterSettings], Link] | None = None,
    ) -> None:
        self.registry = registry or ModelRegistry(
            settings, environ, backends, link or partial(_child_link, environ)
        )
        self.in_flight = InFlight()
        self._store = open_store(settings)
        self._keys = authenticator(settings, self._store, environ, static)
        self._pulls = Pulls()
        self._started_at = format_moment(now_ms())
        self.ledger = None if self._store is None else Ledger(self._store)
        self._retention: Retention | None = None
        self._reloader = Reloader(
            self.registry, self._keys, read_settings or (lambda: settings), environ
        )
        self._cors = Cors(settings.server.allow_origins)
        self._tracer: Tracer | None = tracer_of(settings.traces, environ)
        access = Access(
            self._keys,
            open_to_all=settings.server.no_auth,
            trusted_proxies=settings.server.trusted_proxies,
            allows_origin=self._cors.allows,
            tracer=self._tracer,
        )
        admission = Admission(self.ledger)
        store_file = None if self._store is None else self._store.path
        metrics = Metrics(self.registry, self.ledger, store_file)
        if self._tracer is not None:
            metrics.add(*self._tracer.exporter.tallies)
        self._live = metrics.live
        self._siblings = siblings
        replays = Replays(
            admission=admission,
            in_flight=self.in_flight,
            registry=self.registry,
            metrics=metrics,
            kept_answers=KeptAnswers(self._store),
            siblings=siblings,
        )
        self._access = access
        self._routes = Routes(
            registry=self.registry,
            access=access,
            admission=admission,
            in_flight=self.in_flight,
            metrics=metrics,
            replays=replays,
            ollama=settings.server.ollama,
        )
        self.answers = answers(self.registry, metrics, self.in_flight, self._pulls, replays)
        """What siblings may ask of this process."""
        self._operations = add_admin(
            application.build(
                self.registry, access, metrics, self.in_flight, self._store, siblings
            ),
            access,
            store=self._store,
            models=lambda: self.models,
            live=self._live,
            pulls=self._pulls,
            gateway=self._about,
            describe_cluster=self._describe_cluster,
            reload_configuration=partial(siblings.reload, self.reload),
            preview_reload=partial(siblings.preview, self._reloader.preview),
            siblings=siblings,
        )

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.registry.settings

    @property
    def models(self) -> ServedModels:
        """The models that are served now."""
        return self.registry.models

    @property
    def keyless(self) -> bool:
        """True if callers need no key."""
        return self._keys.open

    def _about(self) -> dict[str, Any]:
        """What is true of all of it, for the operator."""
        store = "none"
        if self.ledger is not None:
            store = "up" if self.ledger.healthy else "down"
        return {
            "version": reverie.__version__,
            "started_at": self._started_at,
            "keyless": self.keyless,
            "admin": True,
            "store": store,
        }

    def _describe_cluster(self, most: int | None) -> dict[str, Any] | None:
        """The cluster, for the operator; None: none is configured."""
        cluster = self.registry.cluster
        return None if cluster is None else describe_cluster(cluster, most)

    async def start(self) -> None:
        """Open the accounts and start the backends; returns before those are ready.

        Raises:
            ConfigurationError: the store can't be used, or strangers would need no key.
            ModelError: a backend can never become ready.
        """
        await self._open_accounts()
        require_keys(self.settings.server, keyless=self._keys.open)
        warn_of_own_backends(self.settings)
        if self._tracer is not None:
            self._tracer.start()
        await self.registry.start()

    async def _open_accounts(self) -> None:
        if self._store is None or self.ledger is None:
            return
        try:
            await asyncio.to_thread(migrate, self._store)
            await self._keys.start()
            await self.ledger.start()
            self._retention = Retention(self._store, self.ledger)
            self._retention.start()
        except StoreFailure as failure:
            raise ConfigurationError([f"store.url: the store can't be used: {failure}"]) from None

    async def reload(self) -> Changes:
        """Read the configuration again and serve what it says, or go on as before.

        Raises:
            ConfigurationError: it can't be used; nothing has changed.
            Overloaded: the server stops.
        """
        return await self._reloader.reload()

    def replace_static_keys(self, static: Sequence[tuple[bytes, str]]) -> None:
        """Recognise these static keys from now on."""
        self._keys.replace_static(static)

    async def end_admin(self) -> None:
        """End what operators wait for: streams that watch, and a reload that runs, within seconds.
        Idempotent."""
        self._live.over.set()
        await self._reloader.close()

    async def stop(self) -> None:
        """Stop everything. Idempotent."""
        await self.end_admin()
        await self._pulls.stop()
        await self.registry.stop()
        await self._keys.stop()
        if self._retention is not None:
            await self._retention.stop()
        if self.ledger is not None:
            await self.ledger.stop()
        if self._tracer is not None:
            await self._tracer.stop()
        if self._store is not None:
            self._store.close()

    def end_requests(self, error: ReverieError) -> None:
        """End the requests that still run."""
        self.in_flight.end_all(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] not in self._routes:
            scope = {**scope, "path": normal(scope["path"])}
        if self._cors.enabled:
            preflight = self._cors.preflight(scope)
            if preflight is not None:
                headers = [self._request_id(scope), *preflight]
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body"})
                return
            if more := self._cors.headers(scope):
                send = with_headers(send, more)
        found = self._routes.find(scope)
        await (found or self._operate)(scope, receive, send)

    async def _operate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer on a route that doesn't generate; HEAD as GET, without the body."""
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, without_body(send)
        await self._operations(scope, receive, with_headers(send, [self._request_id(scope)]))

    def _request_id(self, scope: Scope) -> tuple[bytes, bytes]:
        return (b"x-request-id", self._access.request_id(scope).encode())
