"""Several processes are busy to the end: files that take long come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ordering import longest_first

FILES = {
    "test_units.py": "def test_a(): ...\ndef test_b(): ...\ndef test_c(): ...",
    "browser/test_page.py": "@pytest.mark.browser\n@pytest.mark.integration\ndef test_d(): ...",
    "faults/test_kill.py": "@pytest.mark.integration\ndef test_e(): ...\n"
    "@pytest.mark.slow\n@pytest.mark.integration\ndef test_f(): ...",
    "test_server.py": "@pytest.mark.integration\ndef test_g(): ...",
}


def test_files_that_take_long_come_first_and_stay_whole(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    items: list[pytest.Item] = []
    for name, tests in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"import pytest\n{tests}\n")
        module = pytest.Module.from_parent(request.session, path=file)
        items += [item for item in module.collect() if isinstance(item, pytest.Item)]
    longest_first(items)
    assert [item.name[-1] for item in items] == list("efdgabc")
