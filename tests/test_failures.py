"""What the documentation says of bad days and of attacks is held by the tests that it names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FAILURES = (ROOT / "docs" / "failures.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text().partition("## Held by tests")[2]


def rows(page: str) -> list[list[str]]:
    """The cells of each row of each table, but for their heads."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] not in ("what", "what happens") and set(row[0]) != {"-"}]


def known_tests() -> set[str]:
    """The names of all tests, without those of packages that are installed among them."""
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if {".venv", "node_modules"}.isdisjoint(
            path.relative_to(ROOT).parts
        )  # those of installed packages
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


@pytest.mark.parametrize(("page", "least"), [(FAILURES, 50), (SECURITY, 11)])
def test_each_row_is_held_by_tests_that_there_are(page: str, least: int) -> None:
    known = known_tests()
    found = rows(page)
    assert len(found) >= least
    for what, *_, held in found:
        named = re.findall(r"`(test_\w+)`", held)
        assert named, f"no test holds: {what}"
        for name in named:
            assert name in known, f"{what}: there is no {name}"
