"""A server with those parts of the Hugging Face hub's protocol that downloading a file needs.

Like the hub, it describes a file in its answer to HEAD, redirects to another server for the bytes,
lists a repository as JSON, and gives the reason for a refusal in a header.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import pytest

from tests.models.file_server import FileServer

COMMIT = "1234567890" * 4


@dataclass
class HubServer(FileServer):
    """Repositories of files. Another server, ``cdn``, has their bytes, and must see no token."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """OWNER/REPO → file → content."""
    gated: dict[str, str] = field(default_factory=dict)
    """OWNER/REPO → the token that grants access to its files."""
    cdn: FileServer = field(default_factory=FileServer)
    broken: int | None = None
    """If set, answer every request with this status."""
    garbled: bool = False
    """Send wrong bytes, of the announced length."""

    def __enter__(self) -> Self:
        self.cdn.__enter__()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.cdn.__exit__(kind, error, traceback)

    def use(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Let what fetches models ask this hub, and nothing of the user's own settings."""
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", self.url)
        monkeypatch.setenv("HF_HOME", str(home))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")

    def answer(self, http: http.server.BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(http.path).path)
        if self.broken is not None:
            self.record(http)
            self.refuse(http, self.broken)
        elif path.startswith("/api/models/"):
            self.record(http)
            self._list(http, "/".join(path.split("/")[3:5]))
        else:
            self.record(http)
            repo, _, file = path.removeprefix("/").partition("/resolve/main/")
            self._describe(http, repo, file)

    def _list(self, http: http.server.BaseHTTPRequestHandler, repo: str) -> None:
        if repo not in self.repos:
            self._deny(http, 401, "RepoNotFound")
            return
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            for name, content in self.repos[repo].items()
        ]
        body = json.dumps(tree).encode()
        http.send_response(200)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(body)))
        http.end_headers()
        http.wfile.write(body)

    def _describe(self, http: http.server.BaseHTTPRequestHandler, repo: str, file: str) -> None:
        content = self.repos.get(repo, {}).get(file)
        token = self.gated.get(repo)
        given = http.headers.get("Authorization")
        if given == "Bearer hf_expired":
            self._deny(http, 401, "", "Invalid credentials in Authorization header")
        elif repo not in self.repos:
            self._deny(http, 401, "RepoNotFound")
        elif token is not None and given != f"Bearer {token}":
            self._deny(http, 403 if given else 401, "GatedRepo")
        elif content is None:
            self._deny(http, 404, "EntryNotFound")
        else:
            digest = hashlib.sha256(content).hexdigest()
            self.cdn.files[f"/{digest}"] = content[:-1] + b"?" if self.garbled else content
            http.send_response(302)
            http.send_header("Location", f"{self.cdn.url}/{digest}")
            http.send_header("X-Repo-Commit", COMMIT)
            http.send_header("X-Linked-Size", str(len(content)))
            http.send_header("X-Linked-Etag", f'"{digest}"')
            http.send_header("ETag", '"of-the-redirect"')
            http.send_header("Content-Length", "0")
            http.end_headers()

    def _deny(
        self, http: http.server.BaseHTTPRequestHandler, status: int, code: str, message: str = ""
    ) -> None:
        http.send_response(status)
        http.send_header("X-Repo-Commit", COMMIT)
        http.send_header("X-Error-Code", code)
        http.send_header("X-Error-Message", message or code)
        http.send_header("Content-Length", "0")
        http.end_headers()
