"""Files that the operator writes, which may be something else than regular files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from reverie.files import MAX_BYTES, read_whole


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def refusal(file: Path, *, is_reload: bool = False) -> str:
    with pytest.raises(OSError, match=r".") as caught:
        read_whole(file, is_reload=is_reload)
    return str(caught.value.strerror)


@pytest.mark.parametrize("is_reload", [False, True])
def test_a_regular_file_is_read_whole(tmp_path: Path, is_reload: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * MAX_BYTES)
    assert read_whole(file, is_reload=is_reload) == b"x" * MAX_BYTES
    file.write_bytes(b"x" * (MAX_BYTES + 1))
    assert refusal(file, is_reload=is_reload) == "it is larger than 1 MiB"


def test_what_comes_through_a_pipe_is_read_to_its_end(pipe: Path) -> None:
    text = b"late " * 50_000
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    assert read_whole(pipe) == text
    writer.join()


def test_without_end_there_is_no_more_than_the_bound() -> None:
    assert refusal(Path("/dev/zero")) == "it is larger than 1 MiB"


def test_only_a_regular_file_is_read_again(pipe: Path, tmp_path: Path) -> None:
    for other in (pipe, Path("/dev/null"), tmp_path):
        assert "is not a regular file" in refusal(other, is_reload=True)
    assert read_whole(Path("/dev/null")) == b""


def test_a_name_that_no_file_can_have_is_an_error_as_any_other() -> None:
    assert refusal(Path("a\0b")) == "no file has such a name"
