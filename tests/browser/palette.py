"""A screenshot as a small file: a PNG with a palette, as a page of text has few colours."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = 256


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def with_palette(png: bytes) -> bytes:
    """The picture with its 256 most frequent colours; each other becomes the nearest of these."""
    width, height = size_of(png)
    rows = list(_rows(png, width))
    count = Counter(pixel for row in rows for pixel in row)
    palette = [colour for colour, _ in count.most_common(_COLOURS)]

    @cache
    def index(colour: tuple[int, ...]) -> int:
        return min(range(len(palette)), key=lambda at: _distance(palette[at], colour))

    pixels = b"".join(b"\0" + bytes(map(index, row)) for row in rows)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", b"".join(map(bytes, palette))),
            _chunk(b"IDAT", zlib.compress(pixels, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"%b%b%b%b" % (
        len(data).to_bytes(4, "big"),
        kind,
        data,
        zlib.crc32(kind + data).to_bytes(4, "big"),
    )


def _rows(png: bytes, width: int) -> Iterator[list[tuple[int, ...]]]:
    """The rows of a PNG with 8 bits a channel and no transparency, as browsers write it."""
    depth, colours = png[24], png[25]
    assert (depth, colours) == (8, 2), "this is no RGB picture"
    stride = 3 * width
    data = zlib.decompress(b"".join(_data(png)))
    above = bytearray(stride)
    for start in range(0, len(data), stride + 1):
        row = bytearray(data[start + 1 : start + 1 + stride])
        _unfilter(data[start], row, above)
        above = row
        yield list(zip(row[::3], row[1::3], row[2::3], strict=True))


def _data(png: bytes) -> Iterator[bytes]:
    at = len(_SIGNATURE)
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            yield png[at + 8 : at + 8 + length]
        at += length + 12


def _unfilter(kind: int, row: bytearray, above: bytearray) -> None:
    """Undo a row's filter (PNG, 9.2): each byte was written as its difference to a guess."""
    for at in range(len(row)):
        left, over = (row[at - 3] if at > 2 else 0), above[at]
        corner = above[at - 3] if at > 2 else 0
        guess = (0, left, over, (left + over) // 2, _paeth(left, over, corner))[kind]
        row[at] = (row[at] + guess) & 255


def _paeth(left: int, over: int, corner: int) -> int:
    sum_ = left + over - corner
    return min((left, over, corner), key=lambda value: abs(sum_ - value))
