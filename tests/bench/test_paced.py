"""Many streams bring no more chunks a second than engine and load can take."""

import pytest
from scenarios.paced import PAUSE_MS, pause_of


@pytest.mark.parametrize("streams", [1, 64, 512])
def test_up_to_512_streams_have_the_shortest_pause(streams: int) -> None:
    assert pause_of(streams) == PAUSE_MS


def test_more_bring_as_many_chunks_as_512_do() -> None:
    assert pause_of(2048) == 200
    assert 4096 * 1000 / pause_of(4096) == 512 * 1000 / PAUSE_MS
