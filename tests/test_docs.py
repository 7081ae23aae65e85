"""What the documentation says is what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def test_the_generated_parts_are_generated_from_the_code_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.CONFIGURATION.read_text() == generate.configuration(), "run: make docs"
    assert generate.ARCHITECTURE.read_text() == generate.architecture(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_module_says_in_its_first_line_what_it_holds() -> None:
    for path in (ROOT / "src" / "reverie").rglob("*.py"):
        if path.name != "__main__.py":
            assert path.read_text().startswith('"""'), path
