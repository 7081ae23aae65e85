"""Backups as files: whole ones, and all that may have become of them."""

from __future__ import annotations

import io
import sys
import tracemalloc
from typing import Any

import msgspec
import pytest
from msgspec import structs

from reverie.errors import UnusableBackup
from reverie.store.upkeep import archive
from reverie.store.upkeep.archive import ArchiveReader, ArchiveWriter, Head, verify

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEAD = Head(reverie_backup=1, revision="0003", created_at=1, version="0.1.0")
ROWS = [("key_a", 1, None, "é\n🙂"), ("key_b", 2**62, True, "")]


def written(rows: list[tuple[Any, ...]] = ROWS) -> bytes:
    file = io.BytesIO()
    writer = ArchiveWriter(file, HEAD)
    writer.begin("keys", ["id", "number", "flag", "text"])
    writer.add(rows)
    writer.begin("ledger", ["id"])
    writer.end()
    return file.getvalue()


def lines(*entries: object) -> bytes:
    return zstd.compress(msgspec.json.Encoder().encode_lines(entries))


def refused(data: bytes) -> str:
    with pytest.raises(UnusableBackup) as caught:
        verify(io.BytesIO(data))
    return str(caught.value)


def test_what_was_written_is_read() -> None:
    reader = ArchiveReader(io.BytesIO(written()))
    assert reader.head == HEAD
    batches = list(reader.batches())
    assert [batch.rows for batch in batches] == [ROWS, []]
    assert [batch.table for batch in batches] == ["keys", "ledger"]


def test_a_check_counts_the_rows_and_leaves_the_file_at_its_beginning() -> None:
    file = io.BytesIO(written())
    file.seek(17)
    assert verify(file).rows == {"keys": 2, "ledger": 0}
    assert verify(file).head == HEAD


def test_many_rows_come_in_batches() -> None:
    many: list[tuple[Any, ...]] = [("key", number, None, "") for number in range(2500)]
    batches = list(ArchiveReader(io.BytesIO(written(many))).batches())
    assert [len(batch.rows) for batch in batches] == [1000, 1000, 500, 0]
    assert [row for batch in batches for row in batch.rows] == many


def test_a_batch_of_long_rows_has_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_BATCH_BYTES", 1000)
    long = [["key", number, None, "x" * 300] for number in range(10)]
    batches = list(ArchiveReader(io.BytesIO(written(long))).batches())
    assert [len(batch.rows) for batch in batches] == [4, 4, 2, 0]


def test_a_backup_that_was_cut_off_anywhere_is_refused() -> None:
    whole = written()
    for length in range(len(whole)):
        assert refused(whole[:length]).startswith("it is cut off or damaged")


def test_a_backup_with_any_changed_byte_is_refused_or_says_the_same() -> None:
    """zstd has bits that mean nothing, or the size of a window."""
    whole = written()
    accepted = 0
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            try:
                reader = ArchiveReader(io.BytesIO(changed))
                rows = [row for batch in reader.batches() for row in batch.rows]
            except UnusableBackup:
                continue
            assert (reader.head, rows) == (HEAD, ROWS)
            accepted += 1
    assert accepted < 16


def test_a_backup_with_something_after_its_end_is_refused() -> None:
    refused(written() + b"more")
    refused(written() + zstd.compress(b"more"))
    refused(written() + written())


@pytest.mark.parametrize(
    "data",
    [
        b"SQLite format 3\0" * 100,
        zstd.compress(b""),
        zstd.compress(b"hello\n"),
        zstd.compress(b"[" * 100_000),
        lines([1, 2]),
        lines({"reverie_backup": "1"}),
        lines({"name": "something else"}),
        lines(structs.replace(HEAD, version="1\n\x1b[31mforged")),
        lines(structs.replace(HEAD, revision="../../0003\x00")),
        lines(structs.replace(HEAD, created_at=2**62)),
        lines(structs.replace(HEAD, created_at=-1)),
    ],
)
def test_what_is_no_backup_is_called_so(data: bytes) -> None:
    assert refused(data).startswith("it isn't a backup of Reverie")


def test_a_form_of_the_future_is_called_so() -> None:
    assert "newer Reverie" in refused(lines({"reverie_backup": 2, "anything": "else"}))


@pytest.mark.parametrize(
    "entries",
    [
        [[1]],
        [{"table": "keys", "columns": ["id"]}, [1, 2]],
        [{"table": "keys", "columns": "id"}],
        [{"table": "keys"}],
        [{"table": "keys", "columns": ["id"]}, [1], {"rows": {"keys": 1}, "sha256": "0"}],
        [{"table": "keys", "columns": ["id"]}, "text"],
        [{"table": "keys", "columns": ["id"]}, [["a list"]]],
        [{"table": "keys", "columns": ['id"; DROP TABLE keys']}],
        [{"table": str(number), "columns": []} for number in range(100)],
    ],
)
def test_lines_that_make_no_sense_are_refused(entries: list[object]) -> None:
    assert refused(lines(HEAD, *entries)).startswith("it is cut off or damaged")


def test_a_table_that_comes_twice_is_refused() -> None:
    """Its rows would be counted from the second time on."""
    file = io.BytesIO()
    writer = ArchiveWriter(file, HEAD)
    for rows in ([[1]], [[2], [3]]):
        writer.begin("keys", ["id"])
        writer.add(rows)
    writer.end()
    assert refused(file.getvalue()).startswith("it is cut off or damaged")


def test_a_line_that_unpacks_without_end_takes_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archive, "_LONGEST_LINE", 2**20)
    compressor = zstd.ZstdCompressor(level=1)
    parts = [compressor.compress(msgspec.json.encode(HEAD) + b"\n")]
    parts += [compressor.compress(bytes(2**20)) for _ in range(64)]
    bomb = b"".join(parts) + compressor.flush()
    assert len(bomb) < 2**16
    tracemalloc.start()
    try:
        refused(bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("before", "piece"),
    [(b'{"reverie_backup":[', b"[],"), (b"[", b"[],"), (b'{"table":"x","columns":[', b'"",')],
)
def test_a_line_of_millions_of_values_takes_little_more_memory_than_itself(
    before: bytes, piece: bytes
) -> None:
    line = before + piece * 4_000_000 + piece[:-1] + b"]\n"
    keys = lines(HEAD, {"table": "keys", "columns": ["id"]}) if before == b"[" else b""
    bomb = keys + zstd.compress(line)
    assert len(bomb) < 2**16
    tracemalloc.start()
    try:
        refused(bomb)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(line)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("window_log", "is_taken"), [(27, True), (28, False), (30, False)])
def test_a_window_that_takes_all_memory_is_refused(window_log: int, is_taken: bool) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: window_log}
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(zstd.decompress(written())) + compressor.flush()
    if is_taken:
        assert verify(io.BytesIO(data)).rows == {"keys": 2, "ledger": 0}
    else:
        refused(data)
