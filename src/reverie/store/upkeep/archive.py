"""The file that a backup is, sans database: JSON lines, compressed by zstd.

The first line says what it is. Then come the tables, each a line with its name and its columns and
a line for each row. The last line has the number of rows of each table, and the SHA-256 of all
lines before it. Bytes are in base64.

Rule: nothing of a file is believed before all of it was read once. What is read takes little
memory, whatever the file holds.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, BinaryIO, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from reverie.errors import UnusableBackup

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")

FORMAT = 1
_LONGEST_LINE = 128 * 1024 * 1024
"""Bytes; the longest lines are answers that are kept."""
_LONGEST_HEADING = 64 * 1024
"""Bytes of a line that is no row."""
_BATCH_ROWS = 1000
_BATCH_BYTES = 4 * 1024 * 1024
_MOST_TABLES = 64
_LEVEL = 3
_MAX_WINDOW_LOG = 27
"""Of 128 MiB: what zstd's own program takes by default."""
_NO_BACKUP = "it isn't a backup of Reverie; name a file that `reverie backup` wrote"
_DAMAGED = "it is cut off or damaged; use another backup"


_Word: TypeAlias = Annotated[str, Meta(pattern="^[!-~]{1,64}$")]
"""What may be shown on a terminal as it is."""
_Value: TypeAlias = str | int | float | bool | None


class Head(Struct, frozen=True, kw_only=True):
    """The first line."""

    reverie_backup: int
    """The format's version."""
    revision: _Word
    """The store's schema."""
    created_at: Annotated[int, Meta(ge=0, lt=253_402_300_800_000)]
    """Milliseconds since 1970, until the year 9999."""
    version: _Word
    """Of the Reverie that wrote it."""


class Batch(Struct, frozen=True):
    """Some rows of one table; of an empty table a batch without any."""

    table: str
    columns: list[str]
    rows: list[tuple[Any, ...]]


class Summary(Struct, frozen=True):
    """A whole backup."""

    head: Head
    rows: dict[str, int]
    """Table → its rows."""


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    table: _Word
    columns: Annotated[list[_Word], Meta(max_length=64)]


class _End(Struct, frozen=True, forbid_unknown_fields=True):
    rows: dict[str, int]
    sha256: str


class ArchiveWriter:
    """Writes a backup to a file that is open for writing, and stays open."""

    def __init__(self, file: BinaryIO, head: Head) -> None:
        self._file = file
        self._head = head
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: _LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        self._compressor = zstd.ZstdCompressor(options=options)
        self._hash = hashlib.sha256()
        self._rows: dict[str, int] = {}
        self._table = ""
        self._encoder = msgspec.json.Encoder()
        self._write([head])

    def begin(self, table: str, columns: Sequence[str]) -> None:
        """Begin a table."""
        self._table = table
        self._rows[table] = 0
        self._write([_Table(table, list(columns))])

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows to the table."""
        self._write(rows)
        self._rows[self._table] += len(rows)

    def end(self) -> Summary:
        """Write the last line."""
        self._write([_End(self._rows, self._hash.hexdigest())])
        self._file.write(self._compressor.flush())
        self._file.flush()
        return Summary(self._head, self._rows)

    def _write(self, lines: Sequence[object]) -> None:
        data = self._encoder.encode_lines(lines)
        self._hash.update(data)
        if packed := self._compressor.compress(data):
            self._file.write(packed)


class ArchiveReader:
    """Reads a backup from a file that is open for reading, from where it is.

    Raises:
        UnusableBackup: it isn't one, or this version can't read it.
    """

    def __init__(self, file: BinaryIO) -> None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        self._lines = zstd.ZstdFile(file, options=options)
        self._hash = hashlib.sha256()
        try:
            first = self._lines.readline(_LONGEST_HEADING)
            found = msgspec.json.decode(first)
            form = found.get("reverie_backup") if isinstance(found, dict) else None
            if isinstance(form, int) and form > FORMAT:
                raise UnusableBackup(
                    "it was made by a newer Reverie, in a form that this version can't read; "
                    "install that version"
                )
            self.head = msgspec.convert(found, Head)
        except EOFError:
            raise UnusableBackup(_DAMAGED) from None
        except (zstd.ZstdError, msgspec.MsgspecError, ValueError, RecursionError):
            raise UnusableBackup(_NO_BACKUP) from None
        self._hash.update(first)

    def batches(self) -> Iterator[Batch]:
        """The rows, table by table. What was read is right only once they have come to their end.

        Raises:
            UnusableBackup: the file is damaged.
        """
        try:
            yield from self._batches()
        except (zstd.ZstdError, EOFError, msgspec.MsgspecError, ValueError, RecursionError):
            raise UnusableBackup(_DAMAGED) from None

    def _batches(self) -> Iterator[Batch]:
        counts: dict[str, int] = {}
        table: _Table | None = None
        decode = _row_decoder(0)
        rows: list[tuple[_Value, ...]] = []
        size = 0
        while line := self._lines.readline(_LONGEST_LINE):
            before = self._hash.copy() if line[:1] == b"{" else None
            self._hash.update(line)
            if before is None:
                if table is None:
                    raise UnusableBackup(_DAMAGED)
                rows.append(decode(line))
                counts[table.table] += 1
                size += len(line)
                if len(rows) < _BATCH_ROWS and size < _BATCH_BYTES:
                    continue
            if table is not None and (rows or before is not None):
                yield Batch(table.table, table.columns, rows)
                rows, size = [], 0
            if before is not None:
                if len(line) > _LONGEST_HEADING:
                    raise UnusableBackup(_DAMAGED)
                entry = msgspec.json.decode(line, type=dict[str, Any])
                if "sha256" in entry:
                    end = msgspec.convert(entry, _End)
                    if end != _End(counts, before.hexdigest()) or self._lines.read(1):
                        raise UnusableBackup(_DAMAGED)
                    return
                table = msgspec.convert(entry, _Table)
                if table.table in counts or len(counts) == _MOST_TABLES:
                    raise UnusableBackup(_DAMAGED)
                counts[table.table] = 0
                decode = _row_decoder(len(table.columns))
        raise UnusableBackup(_DAMAGED)  # it ends without its last line


def _row_decoder(columns: int) -> Callable[[bytes], tuple[_Value, ...]]:
    """Reads a row, and no more of one than it has columns: a line may hold millions of lists."""
    row: Any = tuple[(_Value,) * columns]  # type: ignore[misc]
    decoder: msgspec.json.Decoder[tuple[_Value, ...]] = msgspec.json.Decoder(row)
    return decoder.decode


def verify(file: BinaryIO) -> Summary:
    """Read all of a backup, and leave the file at its beginning.

    Raises:
        UnusableBackup: it can't be restored.
    """
    file.seek(0)
    reader = ArchiveReader(file)
    rows: dict[str, int] = {}
    for batch in reader.batches():
        rows[batch.table] = rows.get(batch.table, 0) + len(batch.rows)
    file.seek(0)
    return Summary(reader.head, rows)


def in_pieces(items: Sequence[T], size: int = _BATCH_ROWS) -> Iterable[Sequence[T]]:
    """A long list, a part at a time."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))
