"""nginx and Caddy with the configuration that is shipped, but for addresses, names and paths."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp

from tests.ports import free_ports

DEPLOY = Path(__file__).parents[2] / "deploy"
CERTIFICATE = Path(__file__).parents[1] / "backends" / "client" / "localhost.pem"
PATIENCE = 30.0


class Proxy(NamedTuple):
    """A running proxy. Its clients call it ``localhost``, and are at 127.0.0.2."""

    name: str
    url: str
    """The host that is Reverie's alone."""
    prefixed: str
    """The path on a host of others, without a slash at its end."""
    authority: Path
    """The certificate that its own is signed by."""
    http: aiohttp.ClientSession

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)

    async def send(
        self, base: str, head: str, body: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request as it is written, on a connection of its own.

        Args:
            head: its first line and headers but ``Host``, each with a newline at its end.
        """
        host = base.removeprefix("https://").partition("/")[0]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(host.rpartition(":")[2]), ssl=self.tls, server_hostname="localhost"
        )
        lines = f"{head}Host: {host}\nContent-Length: {len(body)}\n\n"
        writer.write(lines.replace("\n", "\r\n").encode() + body)
        return reader, writer


_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/reverie.conf;
    server {{
        listen 127.0.0.1:{others} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        include {folder}/prefix.conf;
    }}
}}
"""


def _replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with all of these replaced; each has to be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def _nginx(folder: Path, ports: Sequence[int], gateways: Sequence[str]) -> list[str]:
    """Write nginx's configuration; give its command."""
    plain, own, others = ports
    for file in (DEPLOY / "nginx").glob("*.conf"):
        text = file.read_text().replace("/etc/nginx/reverie/", f"{folder}/")
        if file.name == "reverie.conf":
            text = re.sub(r" +listen \[::\].*\n", "", text)
            servers = "\n".join(f"server {gateway};" for gateway in gateways)
            text = _replaced(
                text,
                ("listen 80;", f"listen 127.0.0.1:{plain};"),
                ("listen 443 ", f"listen 127.0.0.1:{own} "),
                ("server_name llm.example.org", "server_name localhost"),
                ("/etc/ssl/private/llm.example.org.pem", str(CERTIFICATE)),
                ("server 127.0.0.1:8000;", servers),
            )
        (folder / file.name).write_text(text)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, others=others, certificate=CERTIFICATE))
    return ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]


_CADDY = """
{{
	admin off
	local_certs
	skip_install_trust
	auto_https disable_redirects
	storage file_system {folder}/caddy
}}
"""


def _caddy(folder: Path, ports: Sequence[int], gateways: Sequence[str]) -> list[str]:
    """Write Caddy's configuration; give its command."""
    _, own, others = ports
    config = folder / "Caddyfile"
    text = (DEPLOY / "caddy" / "Caddyfile").read_text()
    if len(gateways) > 1:
        text = re.sub(r"#(health_uri|health_interval|fail_duration) ", r"\1 ", text)
    config.write_text(
        _CADDY.format(folder=folder)
        + _replaced(
            text,
            ("\nllm.example.org {", f"\nlocalhost:{own} {{\nbind 127.0.0.1"),
            ("\nwww.example.org {", f"\nlocalhost:{others} {{\nbind 127.0.0.1"),
            ("reverse_proxy 127.0.0.1:8000 ", f"reverse_proxy {' '.join(gateways)} "),
        )
    )
    return ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]


@contextlib.asynccontextmanager
async def running(name: str, folder: Path, *gateways: str) -> AsyncIterator[Proxy]:
    """Run ``nginx`` or ``caddy`` in front of these addresses."""
    ports = free_ports(3)
    command = {"nginx": _nginx, "caddy": _caddy}[name](folder, ports, gateways)
    authority = CERTIFICATE
    if name == "caddy":
        authority = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with (folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        )
    try:
        async with asyncio.timeout(PATIENCE):
            for port in ports if name == "nginx" else ports[1:]:
                while not _accepts(port):
                    assert process.returncode is None, (folder / "output").read_text()
                    await asyncio.sleep(0.02)
            while not authority.exists():
                await asyncio.sleep(0.02)
        own, others = (f"https://localhost:{port}" for port in ports[1:])
        connector = aiohttp.TCPConnector(
            local_addr=("127.0.0.2", 0),
            ssl=ssl.create_default_context(cafile=authority),
            family=socket.AF_INET,
        )
        async with aiohttp.ClientSession(connector=connector) as http:
            proxy = Proxy(name, own, f"{others}/llm-gateway", authority, http)
            await _until_it_speaks_tls(proxy)
            yield proxy
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def _until_it_speaks_tls(proxy: Proxy) -> None:
    """Wait until it has its certificates: Caddy listens before it does."""
    async with asyncio.timeout(PATIENCE):
        for url in (proxy.url, proxy.prefixed):
            while True:
                try:
                    await (await proxy.http.get(f"{url}/metrics")).read()
                    break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.02)
