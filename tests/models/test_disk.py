"""Room on the disk, and checksums of what lies there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from reverie.errors import ModelError
from reverie.models.disk import require_space, verify


def test_a_disk_that_is_too_small_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ModelError) as caught:
        require_space(tmp_path, 2 * free, "m")
    message = str(caught.value)
    assert "too full for m" in message
    assert f"needs {(2 * free + 50_000_000) / 1e6:.0f} MB" in message
    assert "REVERIE_HOME" in message


def test_a_little_room_always_stays_free(tmp_path: Path) -> None:
    require_space(tmp_path, 1, "m")
    with pytest.raises(ModelError):
        require_space(tmp_path, shutil.disk_usage(tmp_path).free - 1_000_000, "m")


def test_a_file_with_the_right_checksum_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"right" * 1_000_000)
    verify(file, hashlib.sha256(b"right" * 1_000_000).hexdigest(), "m")
    assert file.exists()


def test_a_file_with_a_wrong_checksum_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"wrong")
    with pytest.raises(ModelError, match="What was fetched as m has the wrong checksum") as caught:
        verify(file, hashlib.sha256(b"right").hexdigest(), "m")
    assert "\n" not in str(caught.value)
    assert not file.exists()
