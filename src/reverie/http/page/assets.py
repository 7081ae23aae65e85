"""The page's files, read once: each as it is and compressed, under a name that tells their content.

All files lie in one folder whose name is made of what they hold. So a browser may keep them for
ever, and the modules find each other by relative paths, whatever path a proxy puts in front.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "assets"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".mjs": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
"""What is served. Other files, such as the libraries' licences, only lie beside it."""
_INDEX = "index.html"
_BUILD = b"{{build}}"


class Asset(NamedTuple):
    """One file."""

    content_type: bytes
    body: bytes
    compressed: bytes
    """The same, by gzip."""
    etag: bytes
    """A weak one: it is the same for both forms."""


class Assets(NamedTuple):
    """The page and its files."""

    build: str
    """The name of the folder, made of all their content."""
    page: Asset
    files: Mapping[str, Asset]
    """By their paths in that folder."""


@cache
def load() -> Assets:
    """Read and compress all of them; takes some 50 ms, the first time."""
    contents = {
        path.relative_to(_FOLDER).as_posix(): path.read_bytes()
        for path in sorted(_FOLDER.rglob("*"))
        if path.suffix in _TYPES
    }
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(b"%b\0%d\0%b" % (name.encode(), len(content), content))
    build = digest.hexdigest()[:16]
    index = contents.pop(_INDEX).replace(_BUILD, build.encode())
    return Assets(
        build,
        _asset(_INDEX, index),
        {name: _asset(name, content) for name, content in contents.items()},
    )


def _asset(name: str, content: bytes) -> Asset:
    return Asset(
        _TYPES[Path(name).suffix],
        content,
        gzip.compress(content, mtime=0),
        b'W/"%b"' % hashlib.sha256(content).hexdigest()[:32].encode(),
    )
