"""The errors are those that docs/protocol.md lists, each with its statuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from reverie import errors
from reverie.errors import ClientGone, ReverieError

TEXT = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\d+) \| `(\w+)` \|", re.MULTILINE)
NEVER_SENT = (ClientGone,)


def subclasses(of: type[ReverieError]) -> Iterator[type[ReverieError]]:
    for one in of.__subclasses__():
        if one.__module__ == errors.__name__:
            yield one
            yield from subclasses(one)


def test_every_error_stands_in_the_table_with_its_statuses_and_no_other_does() -> None:
    documented = {
        (code, int(llm), int(openai), kind) for code, llm, openai, kind in ROW.findall(TEXT)
    }
    in_code = {
        (one.code, one.status, one.openai_status or one.status, one.type)
        for one in subclasses(ReverieError)
        if one not in NEVER_SENT
    }
    assert documented == in_code
