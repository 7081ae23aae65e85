"""A server's URL → where to connect, and what its requests name."""

from __future__ import annotations

import ipaddress
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

from reverie.text import in_url

_DEFAULT_PORTS = {"http": 80, "https": 443}
_IN_PATHS = "/%:@!$&'()*+,;=~"


class Address(Struct, frozen=True):
    """Where a server is."""

    host: str
    """A name, in ASCII, or an IP address."""
    port: int
    tls: bool
    socket: str | None
    """The path of the Unix socket to connect to, in place of host and port."""
    authority: str
    """The value of ``Host``."""
    path: str
    """Before the path of every request; without a slash at its end."""

    @classmethod
    def of(cls, url: str, socket: str | None = None) -> Self:
        """Read a URL: ``http://…``, ``https://…``, ``http+unix://%2Fpath%2Fof%2Fsocket/…``.

        Args:
            socket: the Unix socket to use instead of the URL's host.

        Raises:
            ValueError: the URL can't be used.
        """
        parts = urlsplit(url)
        if parts.scheme == "http+unix":
            socket = socket or unquote(parts.netloc)
            if not socket.startswith("/"):
                raise ValueError("a socket's path is written as http+unix://%2Fpath%2Fof%2Fsocket")
            parts = urlsplit(f"http://engine{parts.path}")
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError("it is neither http, https nor http+unix")
        if not parts.hostname:
            raise ValueError("it names no host")
        host = _ascii(parts.hostname)
        default = _DEFAULT_PORTS[parts.scheme]
        port = default if parts.port is None else parts.port
        name = in_url(host)
        return cls(
            host=host,
            port=port,
            tls=parts.scheme == "https" and socket is None,
            socket=socket,
            authority=name if port == default else f"{name}:{port}",
            path=quote(parts.path.rstrip("/"), safe=_IN_PATHS),
        )

    @property
    def is_numeric(self) -> bool:
        """True if the host is an IP address, which needs no look-up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def target(self, path: str) -> str:
        """What a request asks for.

        Args:
            path: appended to the URL; with a leading slash it replaces the URL's ``/v1``.
        """
        base = self.path.removesuffix("/v1") if path.startswith("/") else self.path
        return f"{base}/{path.lstrip('/')}"


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError("its host is no name") from error


def public_url(url: str) -> str:
    """The URL without its possible secrets: credentials, query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
