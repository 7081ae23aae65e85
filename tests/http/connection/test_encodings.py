"""Compressed bodies: unpacked within the body's bound, or refused."""

from __future__ import annotations

import gzip
import json
import random
import sys
import zlib
from collections.abc import Callable

import pytest

from reverie.errors import InvalidRequest, RequestTooLarge, UnsupportedEncoding
from reverie.http.connection.encodings import coding_of, decompress
from tests.harness import Gateway, chat

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Pack = Callable[[bytes], bytes]


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: list[tuple[str, Pack]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstd.compress),
]
TEXT = json.dumps(chat("Ünicode " * 100)).encode()


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_a_body_is_unpacked(coding: str, pack: Pack) -> None:
    assert decompress(pack(TEXT), coding, len(TEXT)) == TEXT


@pytest.mark.parametrize(("coding", "pack"), [PACKERS[0], PACKERS[3]])
def test_a_body_of_several_members_is_unpacked(coding: str, pack: Pack) -> None:
    assert decompress(pack(TEXT[:50]) + pack(TEXT[50:]), coding, len(TEXT)) == TEXT


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_a_bomb_is_stopped_at_the_bound(coding: str, pack: Pack) -> None:
    bomb = pack(bytes(50_000_000))
    with pytest.raises(RequestTooLarge):
        decompress(bomb, coding, 1000)
    with pytest.raises(RequestTooLarge):
        decompress(pack(bytes(600)) * 2, coding, 1000)


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:5], lambda b: b + b"junk"])
def test_what_is_cut_or_followed_by_junk_is_refused(coding: str, pack: Pack, spoil: Pack) -> None:
    with pytest.raises(InvalidRequest, match=coding):
        decompress(spoil(pack(TEXT)), coding, 10_000)


@pytest.mark.parametrize(("coding", "pack"), [PACKERS[0], PACKERS[3]])
def test_a_body_of_a_great_many_members_is_refused(coding: str, pack: Pack) -> None:
    """They unpack to nothing, and would keep the server busy for minutes."""
    empty = pack(b"")
    with pytest.raises(RequestTooLarge, match="1024 members"):
        decompress(empty * (10_000_000 // len(empty)), coding, 10_000_000)
    assert decompress(empty * 1023 + pack(TEXT), coding, 10_000) == TEXT


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
def test_a_body_that_does_not_shrink_is_unpacked_up_to_its_bound(coding: str, pack: Pack) -> None:
    noise = random.Random(1).randbytes(1_000_000)
    assert decompress(pack(noise), coding, len(noise)) == noise
    with pytest.raises(RequestTooLarge):
        decompress(pack(noise), coding, len(noise) - 1)


def test_a_window_that_takes_much_memory_is_refused() -> None:
    level = {zstd.CompressionParameter.window_log: 27}
    packer = zstd.ZstdCompressor(options=level)
    packed = packer.compress(b"x" * 100) + packer.flush()
    with pytest.raises(InvalidRequest, match="8 MiB"):
        decompress(packed, "zstd", 1000)


@pytest.mark.parametrize(
    ("headers", "coding"),
    [
        ([], None),
        ([b""], None),
        ([b"identity"], None),
        ([b"GZIP"], "gzip"),
        ([b"x-gzip"], "gzip"),
        ([b" zstd "], "zstd"),
        ([b"identity, deflate"], "deflate"),
        ([b"identity", b"gzip"], "gzip"),
    ],
)
def test_a_coding_is_known_by_its_names(headers: list[bytes], coding: str | None) -> None:
    assert coding_of(headers) == coding


@pytest.mark.parametrize(
    "headers",
    [[b"br"], [b"compress"], [b"gzip, gzip"], [b"gzip", b"br"], [b"\xff"], [b"aes128gcm"]],
)
def test_any_other_is_refused_with_those_that_are_read(headers: list[bytes]) -> None:
    with pytest.raises(UnsupportedEncoding) as caught:
        coding_of(headers)
    assert caught.value.headers == {"Accept-Encoding": "gzip, deflate, zstd"}


@pytest.mark.parametrize(("coding", "pack"), PACKERS)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
async def test_a_compressed_request_is_answered(
    gateway: Gateway, coding: str, pack: Pack, bom: bytes
) -> None:
    headers = {"Content-Encoding": coding}
    assert (await gateway.post(pack(bom + TEXT), headers=headers))[0] == 200


async def test_a_request_that_is_sent_again_compressed_is_the_same_request(
    gateway: Gateway,
) -> None:
    key = {"Idempotency-Key": "once"}
    _, first, _ = await gateway.post(TEXT, headers=key)
    for coding, pack in PACKERS:
        status, again, headers = await gateway.post(
            pack(TEXT), headers={**key, "Content-Encoding": coding}
        )
        assert (status, again, headers["Idempotent-Replayed"]) == (200, first, "true")


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"Content-Encoding": "br"}, TEXT, 415, "unsupported_encoding"),
        ({"Content-Encoding": "gzip"}, TEXT, 400, "invalid_request"),
        ({"Content-Encoding": "gzip"}, gzip.compress(bytes(20_000_000)), 413, "request_too_large"),
    ],
)
async def test_what_can_not_be_unpacked_is_refused(
    gateway: Gateway, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    found, answer, sent = await gateway.post(body, "/v1/chat/completions", headers=headers)
    assert (found, answer["error"]["code"]) == (status, code)
    assert ("Accept-Encoding" in sent) == (status == 415)
