"""The code in the documentation's pages, and what is said about each piece of it.

A comment on the line before a block, which no reader sees, says what the tests do with it:

    <!-- run -->                  it is run by the page's own test, as it stands but for addresses,
                                  ports and keys
    <!-- run: WORD VALUE … -->    the same, told how; the test of the page knows these words
    <!-- not run: REASON -->      it isn't, and isn't checked

A block without a comment is checked as far as its language allows: test_snippets.py says how.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_COMMENT = re.compile(r"\s*<!-- (?P<not>not )?run(?:: (?P<words>.+))? -->")
_FENCE = re.compile(r"(?P<indent> *)(?P<fence>```+)(?P<language>\w*)(?P<more>.*)")


@dataclass(frozen=True)
class Snippet:
    """A block of code in a page."""

    page: str
    line: int
    """Its number, of the fence above the code."""
    section: str
    """The heading that it stands under."""
    language: str
    text: str
    is_run: bool = False
    why_not: str = ""
    """Why it can't be run nor checked."""
    words: tuple[str, ...] = ()
    """How it is run."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_checked(self) -> bool:
        return not self.is_run and not self.why_not

    def word(self, name: str) -> str | None:
        """What follows that word; None if it isn't there."""
        words = dict(zip(self.words[::2], self.words[1::2], strict=True))
        return words.get(name)


@cache
def snippets_of(page: Path) -> tuple[Snippet, ...]:
    """Raises AssertionError: a comment is neither form, or a fence isn't closed."""
    return tuple(parse(page.name, page.read_text()))


def parse(name: str, text: str) -> list[Snippet]:
    found = []
    lines = iter(enumerate(text.splitlines(), start=1))
    before = section = ""
    for number, line in lines:
        if opened := _FENCE.fullmatch(line):
            code = []
            for _, inner in lines:
                if inner.strip() == opened["fence"]:
                    break
                code.append(inner.removeprefix(opened["indent"]) + "\n")
            else:
                raise AssertionError(f"{name}:{number}: the block isn't closed")
            place = name, number, section, opened["language"], "".join(code)
            found.append(_snippet(before, *place))
        elif line.startswith("#"):
            section = line.lstrip("# ")
        before = line
    return found


def _snippet(before: str, page: str, line: int, section: str, language: str, text: str) -> Snippet:
    place = page, line, section, language, text
    said = _COMMENT.fullmatch(before)
    if said is None:
        assert "<!--" not in before or "run" not in before, f"{page}:{line}: what is {before}?"
        return Snippet(*place)
    if said["not"]:
        assert said["words"], f"{page}:{line}: why isn't it run?"
        return Snippet(*place, why_not=said["words"])
    words = tuple(shlex.split(said["words"] or ""))
    assert len(words) % 2 == 0, f"{page}:{line}: a word without a value: {words}"
    return Snippet(*place, is_run=True, words=words)


def run_of(page: str) -> list[Snippet]:
    """The blocks of a page in `docs/` that are run, in order."""
    return [one for one in snippets_of(ROOT / "docs" / page) if one.is_run]
