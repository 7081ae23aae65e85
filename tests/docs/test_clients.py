"""The code in docs/clients.md, run as it stands there but for the address and the key.

The blocks of a section are one script, so that what one exports or writes is there for the next.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from reverie.testing import ScriptedEngine
from tests.contract.node import node_modules, output_of
from tests.contract.python_clients import python
from tests.docs.snippets import Snippet, run_of
from tests.harness import StartGateway

__all__ = ["node_modules", "python"]
pytestmark = pytest.mark.integration

ADDRESS = "http://127.0.0.1:8000"
KEY = "the-key-of-a-reader"
SECTIONS = list(dict.fromkeys(snippet.section for snippet in run_of("clients.md")))
BETWEEN = "--- the next block"


def line_of(snippet: Snippet, number: int, python: Path) -> str:
    """A line of shell that does what a reader does with a block."""
    if file := snippet.word("file"):
        path = f'"$HOME"/{shlex.quote(file)}'
        return f'mkdir -p "$(dirname {path})"; printf %s {shlex.quote(snippet.text)} >{path}'
    if snippet.language == "sh":
        return snippet.text
    if snippet.language == "python":
        program = python if snippet.word("in") == "clients" else sys.executable
        return f"{shlex.quote(str(program))} -c {shlex.quote(snippet.text)}"
    assert snippet.language == "js", snippet
    return f"printf %s {shlex.quote(snippet.text)} >{number}.mjs; node {number}.mjs"


@pytest.mark.parametrize("section", SECTIONS)
async def test_what_the_page_says_works(
    section: str,
    node_modules: Path,
    python: Path,
    engine: ScriptedEngine,
    start_gateway: StartGateway,
    tmp_path: Path,
) -> None:
    gateway = await start_gateway(
        server={"ollama": True},
        environ={"REVERIE_API_KEYS": KEY},
        models=[
            {"name": name, "backends": [{"url": engine.url}], **more}
            for name, more in (
                ("smollm2-135m", {"default": True}),
                ("my-model", {}),
                ("minilm", {"task": "embed"}),
            )
        ],
    )
    snippets = [snippet for snippet in run_of("clients.md") if snippet.section == section]
    lines = [line_of(snippet, number, python) for number, snippet in enumerate(snippets)]
    script = f"\necho; echo {shlex.quote(BETWEEN)}\n".join(["set -eu", *lines])
    assert ADDRESS in script
    script = re.sub(r"\bKEY\b", KEY, script.replace(ADDRESS, gateway.url))

    home = tmp_path / "home"
    home.mkdir()
    (home / "node_modules").symlink_to(node_modules)
    await output_of("git", "init", "--quiet", home)
    path = [str(node_modules / ".bin"), str(python.parent), os.environ["PATH"]]
    written = await output_of(
        *("bash", "-c", script),
        cwd=home,
        env={
            "HOME": str(home),
            "PATH": ":".join(path),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",
        },
    )
    _, *outputs = written.split(BETWEEN)
    for snippet, output in zip(snippets, outputs, strict=True):
        if not snippet.word("file"):
            wanted = snippet.word("prints")
            for text in ("Hello", "world") if wanted is None else (wanted,):
                assert text in output, f"{snippet} printed {output}"
