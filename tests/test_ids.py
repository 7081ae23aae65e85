"""Random ids."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from reverie.ids import random_id


def test_no_id_comes_twice_whoever_asks() -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: random_id(), range(20_000)))
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)
