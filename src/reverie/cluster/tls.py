"""TLS before an engine: llama.cpp in a wheel is built without it, and listens on a Unix socket.

Rule: as soon as a client leaves, so does its connection to the engine, which then stops its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from reverie import background
from reverie.errors import ModelError
from reverie.settings import ClusterSettings

_HANDSHAKE = 10.0
"""Seconds for a client's handshake."""


class TlsFiles(NamedTuple):
    """One machine's certificate and its key, and what signed the certificates of all."""

    cert: str
    key: str
    ca: str

    @classmethod
    def of(cls, cluster: ClusterSettings) -> TlsFiles | None:
        """Those that the configuration names; None: its cluster speaks no TLS."""
        files = (cluster.tls_cert, cluster.tls_key, cluster.tls_ca)
        return cls(*map(str, files)) if all(files) else None


def check(tls: TlsFiles, host: str) -> None:
    """Make sure that clients who trust the authority can reach ``host`` with it.

    Raises:
        ModelError
    """
    try:
        ours = server_context(tls)
        theirs = ssl.create_default_context(cafile=tls.ca)
        _shake_hands(ours, theirs, host)
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message.rstrip(".")
        raise ModelError(
            f"The certificate {tls.cert} doesn't hold for {host}: {reason}. Have it made for this "
            f"address, and signed by {tls.ca}."
        ) from None
    except ssl.SSLError:
        raise ModelError(
            f"{tls.cert}, {tls.key} and {tls.ca} must be in PEM, without a passphrase, and the key "
            "that of the certificate."
        ) from None
    except OSError as error:
        raise ModelError(
            f"{error.filename or tls.cert} can't be read: {error.strerror}. It must be on each "
            "machine that runs engines."
        ) from None


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    """
    Raises:
        OSError: a file can't be read, or isn't what it should be (``ssl.SSLError``).
    """
    for file in tls:
        open(file).close()  # ssl's own errors don't say which
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    context.set_alpn_protocols(["http/1.1"])
    return context


def _shake_hands(ours: ssl.SSLContext, theirs: ssl.SSLContext, host: str) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = theirs.wrap_bio(down, up, server_hostname=host)
    server = ours.wrap_bio(up, down, server_side=True)
    for _ in range(2):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


class TlsFront:
    """Speaks TLS with clients, and passes on what they say to an engine's Unix socket.

    Args:
        listener: already listens. It is closed by ``stop``.
        engine: gives the path of the engine's socket.
    """

    def __init__(
        self, listener: socket.socket, context: ssl.SSLContext, engine: Callable[[], Path]
    ) -> None:
        self._listener = listener
        self._context = context
        self._engine = engine
        self._server: asyncio.Server | None = None
        self._clients: set[_Client] = set()

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Client(self._engine, self._clients),
            sock=self._listener,
            ssl=self._context,
            ssl_handshake_timeout=_HANDSHAKE,
        )

    def stop(self) -> None:
        """Take no more connections, and break off those there are. Idempotent."""
        if self._server is not None:
            self._server.close()  # and its listener
        else:
            self._listener.close()
        for client in tuple(self._clients):
            client.abort()


class _Side(asyncio.Protocol):
    """One of two connections. What arrives here is written to the other one, at its pace."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()


class _EngineSide(_Side):
    def __init__(self, client: _Client) -> None:
        super().__init__()
        self.other = client

    def connection_lost(self, error: Exception | None) -> None:
        client = cast(_Client, self.other)
        if error is None:
            client.transport.close()  # once all of it is written
        else:
            client.abort()


class _Client(_Side):
    def __init__(self, engine: Callable[[], Path], clients: set[_Client]) -> None:
        super().__init__()
        self._engine = engine
        self._clients = clients
        self._early = bytearray()
        self._gone = False
        self._reaching: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._clients.add(self)
        self._reaching = background.once("engine connection", self._reach)

    async def _reach(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, side = await loop.create_unix_connection(
                lambda: _EngineSide(self), str(self._engine())
            )
        except OSError:  # it is being started again
            self.abort()
            return
        self.other = side
        side.transport.write(self._early)
        self._early = bytearray()
        if self._gone:
            side.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
        else:
            self._early += data

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._clients.discard(self)
        if self.other is not None:
            self.other.transport.abort()

    def abort(self) -> None:
        self.transport.abort()
