"""Compressed request bodies (RFC 9110 §8.4) → plain ones, within a bound on what they unpack to."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from reverie.errors import InvalidRequest, RequestTooLarge, UnsupportedEncoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUPPORTED = ("gzip", "deflate", "zstd")

_MAX_WINDOW_LOG = 23
"""zstd's window in HTTP has at most 8 MiB (RFC 9659 §3), which bounds the memory it takes."""
_MAX_MEMBERS = 1024
"""Members of one stream. Even an empty one costs time, and a body could hold a million."""
_PIECE = 64 * 1024
"""Bytes that are unpacked at once: what follows a member's end is copied."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's ``wbits``. Some clients leave the zlib header of "deflate" out."""
_ALIASES = {"x-gzip": "gzip"}


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_New: TypeAlias = Callable[[], _Decompressor]


def coding_of(values: Iterable[bytes]) -> str | None:
    """The coding that the ``Content-Encoding`` headers of a request name; None for none.

    Raises:
        UnsupportedEncoding: they name another, or several.
    """
    named = [part.strip().lower() for part in b",".join(values).decode("latin-1").split(",")]
    codings = [_ALIASES.get(one, one) for one in named if one not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in SUPPORTED:
        raise UnsupportedEncoding(SUPPORTED)
    return codings[0]


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """Unpack a body. No more than ``limit`` bytes are ever unpacked.

    Raises:
        RequestTooLarge: it unpacks to more.
        InvalidRequest: it isn't what its coding says.
    """
    try:
        return _unpack(body, _decompressor(body, coding), limit)
    except (zlib.error, zstd.ZstdError, EOFError):
        window = " with a window of at most 8 MiB" if coding == "zstd" else ""
        raise InvalidRequest(
            f"The request body can't be unpacked: it is not valid {coding}{window}."
        ) from None


def _unpack(body: bytes, new: _New, limit: int) -> bytes:
    """Unpack one member after the other; a stream may have several."""
    unpacked = bytearray()
    member, members = new(), 1
    for begin in range(0, len(body), _PIECE):
        piece = body[begin : begin + _PIECE]
        while piece:
            if member.eof:
                member, members = new(), members + 1
                if members > _MAX_MEMBERS:
                    raise RequestTooLarge(
                        f"The request body may be packed in at most {_MAX_MEMBERS} members."
                    )
            unpacked += member.decompress(piece, limit + 1 - len(unpacked))
            if len(unpacked) > limit:
                raise RequestTooLarge(
                    f"The request body may have at most {limit} bytes, also once it is unpacked."
                )
            piece = member.unused_data if member.eof else b""
    if not member.eof:
        raise EOFError
    return bytes(unpacked)


def _decompressor(body: bytes, coding: str) -> _New:
    if coding == "zstd":
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options)
    if coding == "gzip":
        return lambda: zlib.decompressobj(_GZIP)
    is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return lambda: zlib.decompressobj(_ZLIB if is_zlib else _RAW)
