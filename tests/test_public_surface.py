"""What other projects may import, as docs/embedding.md says, and what the wheel brings them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import pytest

from reverie.testing import ScriptedEngine
from tests.harness import chat

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "embedding.md").read_text()
_TABLE = re.findall(r"^\| `(reverie[\w.]*)` \| (.*?) \|", PAGE, re.MULTILINE)
PUBLIC = {module: re.findall(r"`(\w+)`", names) for module, names in _TABLE}


@pytest.mark.parametrize(
    "module", ["reverie.app", "reverie.events", "reverie.settings", "reverie.testing"]
)
def test_a_public_module_declares_the_names_that_the_page_tells(module: str) -> None:
    imported = importlib.import_module(module)
    assert sorted(imported.__all__) == sorted(PUBLIC[module])
    assert all(hasattr(imported, name) for name in imported.__all__)


async def test_the_pages_application_serves_its_own_route_and_the_gateways(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REVERIE_API_KEYS", raising=False)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "http://127.0.0.1:9100/v1" in code
    page: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:9100/v1", engine.url), page)
    app = page["app"]
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://localhost"
        ) as client,
    ):
        assert (await client.get("/mine")).json() == "served by the application around it"
        answer = (await client.post("/llm", json=chat())).json()
        assert answer["choices"][0]["message"]["content"] == "Hello world"
        assert (await client.get("/nowhere")).status_code == 404


@pytest.mark.integration
def test_the_wheel_brings_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*command, "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("reverie-*.whl")
    source = ROOT / "src"
    written = {
        file.relative_to(source).as_posix()
        for file in (source / "reverie").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        brought = {name for name in archive.namelist() if name.startswith("reverie/")}
    assert brought - {"reverie/build.json"} == written  # of what it was built
    assert "reverie/py.typed" in brought
    assert "reverie/store/database/migrations/versions/0001_accounts.py" in brought
