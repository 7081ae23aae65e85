"""The order of the files where several processes share them: those that take longest come first.

A file goes to one process as a whole. A long one that came last would leave the others with nothing
to do, so the short ones come last. How long a file takes is guessed from its tests' marks, which is
exact enough: the unit tests at the end fill what the guess leaves open.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

_SECONDS = {"slow": 20.0, "browser": 3.0, "real": 2.0, "integration": 0.2}
"""Seconds that a test takes by its marks, at most one of which counts: the first here."""
_FOLDERS = {"faults": 6.0, "cli": 0.6}
"""The same for the tests of a folder that have the mark ``integration``, where they take longer."""
_OTHERS = 0.01


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # the files with the most tests first


@pytest.hookimpl(trylast=True)  # once the marks are set
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        longest_first(items)


def longest_first(items: list[pytest.Item]) -> None:
    """Sort the files, and leave the order within each as it is."""
    seconds: Counter[Path] = Counter()
    for item in items:
        seconds[item.path] += guess(item)
    items.sort(key=lambda item: (-seconds[item.path], str(item.path)))


def guess(item: pytest.Item) -> float:
    marks = {mark.name for mark in item.iter_markers()}
    found = next((_SECONDS[mark] for mark in _SECONDS if mark in marks), _OTHERS)
    if "integration" not in marks:
        return found
    return max(found, *(_FOLDERS.get(part, 0.0) for part in item.path.parent.parts))
