"""docs/quickstart.md, from its first line to its last, on a machine that knows nothing of Reverie.

What is here and not there: the source is installed already, the server gets a free port in place of
8000, the hub is a server of this machine that has the default model under another one's name, and
PostgreSQL is the tests' own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reverie.models.store import fetch
from tests.docs.snippets import run_of
from tests.docs.terminal import ServerTerminal, Terminal
from tests.models.hub_server import HubServer
from tests.postgres import Postgres, find_binaries
from tests.test_docs import ROOT

pytestmark = [pytest.mark.real, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(400)]

ADDRESS = "http://127.0.0.1:8000"
REPOSITORY, FILE = "Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf"


@pytest.fixture
def environ(own_postgres: Postgres, tmp_path: Path) -> dict[str, str]:
    """The variables of somebody with a home of their own, and nothing of Reverie's in it."""
    home = tmp_path / "home"
    home.mkdir()
    passed_on = "PATH", "LANG", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV"
    path = f"{find_binaries()}:{os.environ['PATH']}"
    return {
        **{name: os.environ[name] for name in passed_on if name in os.environ},
        "PATH": path,
        "HOME": str(home),
        "REVERIE_HOME": str(fetch("smollm2-135m").parent.parent),  # once for all tests
        "REVERIE_PORT": "0",
        "HF_HUB_DISABLE_XET": "1",
        "PGHOST": str(own_postgres.directory),
        "PGUSER": "postgres",
    }


def test_each_step_works(environ: dict[str, str], tmp_path: Path) -> None:
    model = fetch("smollm2-135m").read_bytes()
    home = Path(environ["HOME"])
    with (
        HubServer(repos={REPOSITORY: {FILE: model}}) as hub,
        ServerTerminal(ROOT, environ | {"HF_ENDPOINT": hub.url}, tmp_path / "server") as server,
    ):
        terminal = Terminal(ROOT, environ | {"HF_ENDPOINT": hub.url}, tmp_path / "terminal")
        address = ADDRESS
        for snippet in run_of("quickstart.md"):
            text = snippet.text.replace(ADDRESS, address)
            if snippet.word("terminal") == "server":
                address = server.serve(text)
            elif file := snippet.word("file"):
                below = (home / file).read_text() if snippet.word("above") else ""
                (home / file).write_text(text + below)
            else:
                printed = terminal.run(text, REVERIE_URL=address)
                wanted = snippet.word("prints")
                told = printed.strip() if wanted is None else wanted in printed
                assert told, f"{snippet} printed {printed}"
    assert (home / ".local" / "state" / "reverie" / "reverie.db").is_file()
