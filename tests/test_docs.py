"""What the documentation says is what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def test_the_configuration_reference_is_generated_from_the_code() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.CONFIGURATION.read_text() == generate.configuration(), "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_module_has_its_line_in_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [
        path.relative_to(ROOT / "src" / "reverie").as_posix()
        for path in (ROOT / "src" / "reverie").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    missing = [module for module in sorted(modules) if f"`{module}`" not in text]
    assert not missing, f"no line for {missing}"
