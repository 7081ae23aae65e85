"""Downloads from a server that breaks off, forgets, and lies."""

from __future__ import annotations

import hashlib
import random
import shutil
import socket
import sys
from pathlib import Path

import pytest

from reverie.errors import ModelError
from reverie.models import download as module
from reverie.models.download import DownloadFailed, download
from tests.models.file_server import FileServer
from tests.models.small_disk import on_a_small_disk

FILE = random.Random(1).randbytes(1_000_000)
SHA256 = hashlib.sha256(FILE).hexdigest()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)


@pytest.fixture
def target(tmp_path: Path, server: FileServer) -> Path:
    server.files["/file"] = FILE
    return tmp_path / "target"


def fetch(server: FileServer, target: Path) -> None:
    download(f"{server.url}/file", target, what="m", size=len(FILE), sha256=SHA256)


def names(target: Path) -> list[str]:
    """What is in the target's folder."""
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_is_fetched_whole_and_nothing_else_is_left(server: FileServer, target: Path) -> None:
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert names(target) == ["target"]
    assert [request.range for request in server.requests] == [None]


@pytest.mark.parametrize("announce_length", [True, False])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    server: FileServer, target: Path, announce_length: bool
) -> None:
    server.announce_length = announce_length
    server.cuts = [300_000, 200_000]
    fetch(server, target)
    assert target.read_bytes() == FILE
    asked = [(request.range, request.sent) for request in server.requests]
    assert asked == [
        (None, 300_000),
        ("bytes=300000-", 200_000),
        ("bytes=500000-", 500_000),
    ]


def test_a_line_that_keeps_breaking_is_borne_while_it_brings_something(
    server: FileServer, target: Path
) -> None:
    server.cuts = [50_000] * 19
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert sum(request.sent for request in server.requests) == len(FILE)


def test_a_line_that_brings_nothing_is_given_up_and_what_came_is_kept(
    server: FileServer, target: Path
) -> None:
    server.cuts = [300_000, *[10] * 20]
    with pytest.raises(DownloadFailed, match="the connection broke"):
        fetch(server, target)
    assert names(target) == ["target.part"]
    server.cuts = []
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert server.requests[-1].range is not None
    assert sum(request.sent for request in server.requests) == len(FILE)


def test_what_an_earlier_try_left_is_not_fetched_again(server: FileServer, target: Path) -> None:
    target.with_name("target.part").write_bytes(FILE[:700_000])
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert [(r.range, r.sent) for r in server.requests] == [("bytes=700000-", 300_000)]


def test_what_an_earlier_try_left_whole_is_only_verified(server: FileServer, target: Path) -> None:
    target.with_name("target.part").write_bytes(FILE)
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert server.requests == []


def test_a_part_that_is_longer_than_the_file_is_thrown_away(
    server: FileServer, target: Path
) -> None:
    target.with_name("target.part").write_bytes(FILE + b"x")
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert server.requests[0].range is None


def test_a_server_that_ignores_ranges_makes_it_begin_again(
    server: FileServer, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ignore_range = True
    server.cuts = [300_000]
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert [request.sent for request in server.requests] == [300_000, len(FILE)]
    assert "fetched m: 1.0 MB" in capsys.readouterr().err


def test_a_range_that_is_refused_makes_it_begin_again(server: FileServer, target: Path) -> None:
    target.with_name("target.part").write_bytes(b"another file's beginning")
    server.statuses = [416]
    fetch(server, target)
    assert target.read_bytes() == FILE
    assert [request.range for request in server.requests] == ["bytes=24-", None]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_in_trouble_is_asked_again(
    server: FileServer, target: Path, status: int
) -> None:
    server.statuses = [status, status]
    fetch(server, target)
    assert target.read_bytes() == FILE
    server.statuses = [status] * 20
    target.unlink()
    with pytest.raises(DownloadFailed, match=f"the server answered {status}"):
        fetch(server, target)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_server_that_refuses_is_not_asked_again(
    server: FileServer, target: Path, status: int
) -> None:
    server.statuses = [status]
    with pytest.raises(DownloadFailed, match=f"the server answered {status}"):
        fetch(server, target)
    assert len(server.requests) == 1
    assert names(target) == []


def test_a_server_that_is_not_there_is_a_plain_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DownloadFailed, match="refused"):
        download(f"http://127.0.0.1:{port}/file", tmp_path / "t", what="m", size=1, sha256=SHA256)


def test_wrong_bytes_never_get_the_targets_name(server: FileServer, target: Path) -> None:
    server.files["/file"] = FILE[:-1] + bytes([FILE[-1] ^ 1])
    with pytest.raises(ModelError, match="wrong checksum") as caught:
        fetch(server, target)
    assert "\n" not in str(caught.value)
    assert names(target) == []


def test_a_wrong_beginning_is_found_out_and_the_next_try_is_clean(
    server: FileServer, target: Path
) -> None:
    target.with_name("target.part").write_bytes(bytes(1000))
    with pytest.raises(ModelError, match="wrong checksum"):
        fetch(server, target)
    assert names(target) == []
    fetch(server, target)
    assert target.read_bytes() == FILE


@pytest.mark.parametrize("length", [5_000, len(FILE) + 1])
def test_a_file_of_another_length_is_not_even_begun(
    server: FileServer, target: Path, length: int
) -> None:
    server.files["/file"] = bytes(length)
    with pytest.raises(DownloadFailed, match="another file"):
        fetch(server, target)
    assert names(target) == []


def test_the_rest_of_another_file_is_not_taken(server: FileServer, target: Path) -> None:
    target.with_name("target.part").write_bytes(FILE[:1000])
    server.files["/file"] = FILE + b"x"
    with pytest.raises(DownloadFailed, match="another file"):
        fetch(server, target)
    assert names(target) == ["target.part"]


def test_a_file_without_an_end_is_not_read_to_it(server: FileServer, target: Path) -> None:
    server.announce_length = False
    server.files["/file"] = FILE * 20
    with pytest.raises(ModelError, match="wrong checksum"):
        fetch(server, target)
    assert server.requests[0].sent < len(FILE) * 20
    assert names(target) == []


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_fetched(
    server: FileServer, target: Path
) -> None:
    free = shutil.disk_usage(target.parent).free
    with pytest.raises(ModelError) as caught:
        download(f"{server.url}/file", target, what="m", size=2 * free, sha256=SHA256)
    message = str(caught.value)
    assert "too full for m" in message
    assert f"needs {(2 * free + 50_000_000) / 1e6:.0f} MB" in message
    assert "REVERIE_HOME" in message
    assert server.requests == []
    assert names(target) == []


_ON_A_SMALL_DISK = """
import os, pathlib, sys
from reverie.errors import ModelError
from reverie.models import download
download._SPARE = -10_000_000  # as if another program took the room meanwhile
folder = pathlib.Path(sys.argv[1])
try:
    download.download(sys.argv[2], folder / "target", what="m", size=int(sys.argv[3]), sha256="-")
except ModelError as error:
    print(error)
print(os.listdir(folder))
"""


def test_a_disk_that_fills_up_is_a_clear_error_and_left_empty(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["/file"] = bytes(2_000_000)
    done = on_a_small_disk(
        tmp_path,
        [sys.executable, "-c", _ON_A_SMALL_DISK, str(tmp_path), f"{server.url}/file", "2000000"],
    )
    message, left = done.stdout.splitlines()
    assert message.startswith("The disk is full.")
    assert "REVERIE_HOME" in message
    assert left == "[]"
    assert "Traceback" not in done.stderr
    assert len(server.requests) == 1


def test_progress_off_a_terminal_is_plain_lines(
    server: FileServer, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target.with_name("target.part").write_bytes(FILE[:200_000])
    fetch(server, target)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "fetching m (1.0 MB), going on at 0.2 MB"
    assert last.startswith("fetched m: 1.0 MB, ")
