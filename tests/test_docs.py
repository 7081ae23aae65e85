"""What the documentation says is what the code does."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reverie import errors
from reverie.app import Application
from reverie.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def test_the_generated_parts_are_generated_from_the_code_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.CONFIGURATION.read_text() == generate.configuration(), "run: make docs"
    assert generate.ARCHITECTURE.read_text() == generate.architecture(), "run: make docs"
    assert generate.MODELS.read_text() == generate.models(), "run: make docs"
    assert generate.METRICS.read_text() == generate.metrics(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_files_and_tables_that_contributors_are_sent_to_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for table in re.findall(r"`(_?[A-Z]+_[A-Z_]+)`", page):
        assert re.search(rf"^{table}\b", source, re.MULTILINE), table
    named = re.findall(r"`([\w/]+/\w+\.py)`", page)
    for path in named:
        if "NAME" not in path:
            assert (ROOT / path).exists() or (ROOT / "src" / "reverie" / path).exists(), path
    assert "src/reverie/backends/health.py" in named


def test_every_module_says_in_its_first_line_what_it_holds() -> None:
    for path in (ROOT / "src" / "reverie").rglob("*.py"):
        if path.name != "__main__.py":
            assert path.read_text().startswith('"""'), path


def errors_that_are_sent(base: type[errors.ReverieError]) -> Iterator[type[errors.ReverieError]]:
    if base is not errors.ClientGone and base.__module__ == errors.__name__:
        yield base
        for error in base.__subclasses__():
            yield from errors_that_are_sent(error)


def test_the_protocol_lists_each_error_with_its_statuses_and_type() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| `(\w+)` \|", PROTOCOL, re.MULTILINE)
    assert set(listed) == {
        (error.code, str(error.status), str(error.openai_status or error.status), error.type)
        for error in errors_that_are_sent(errors.ReverieError)
    }


@pytest.fixture
async def client() -> Any:
    settings = Settings.model_validate({"server": {"ollama": True}})
    transport = httpx.ASGITransport(Application(settings, environ={}))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_the_protocol_lists_each_field_of_a_request(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    fields: set[str] = set()
    waiting, seen = ["LLMRequest"], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            fields |= schemas[name]["properties"].keys()
            waiting += re.findall(r"#/components/schemas/(\w+)", str(schemas[name]))
    assert {"messages", "reasoning_content", "tool_call_id", "include_usage"} <= fields
    missing = {f for f in fields if f"`{f}`" not in PROTOCOL and f'"{f}"' not in PROTOCOL}
    assert not missing


async def test_the_protocol_lists_the_routes_that_there_are(client: httpx.AsyncClient) -> None:
    listed = set(re.findall(r"`(GET|HEAD|POST|PUT|PATCH|DELETE) (/\S*)`", PROTOCOL))
    described = {
        (method.upper(), path)
        for path, methods in (await client.get("/openapi.json")).json()["paths"].items()
        for method in methods
    }
    assert described <= listed
    # Without a key, an admin route looks like one that isn't there.
    assert {route for route in listed if route[1].startswith("/admin/")} <= described
    for method, path in listed:
        answer = await client.request(method, path)
        if answer.status_code in (404, 405):
            error = answer.json()["error"]  # that of the route itself, whose {id} is none
            assert error["param"] in ("model", "response_id"), f"{method} {path}"


def test_the_request_path_can_be_read_in_an_afternoon() -> None:
    """The modules of the architecture's reading order exist, and are short enough together."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    order = re.findall(r"^\d+\. `([\w/]+\.py)`:", page, re.MULTILINE)
    assert "http/generate.py" in order
    lines = [len((ROOT / "src" / "reverie" / module).read_text().splitlines()) for module in order]
    assert sum(lines) < 3_000
