"""Writes GGUF files by hand."""

from __future__ import annotations

import struct

UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10
Q4_1, UNKNOWN_TYPE = 3, 99


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def text(name: str, value: str) -> bytes:
    return key(name, STRING, string(value))


def number(name: str, value: int) -> bytes:
    return key(name, UINT32, struct.pack("<I", value))


def tensor(name: str, *shape: int, kind: int = Q4_1, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + dimensions + struct.pack("<IQ", kind, offset)


def gguf(*keys: bytes, tensors: tuple[bytes, ...] = (), data: int = 0, version: int = 3) -> bytes:
    """A GGUF file with these keys and tensors, and ``data`` zero bytes after the header."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    header += b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


SMALL = gguf(
    text("general.architecture", "llama"),
    text("general.name", "Small"),
    number("llama.context_length", 2048),
    key("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 2) + string("a") + string("b")),
    key("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ2f", FLOAT32, 2, 0.5, 1.5)),
    key("tokenizer.ggml.add_bos_token", BOOL, b"\x01"),
    text("tokenizer.chat_template", "{{ messages }}"),
    tensors=(tensor("first", 64, 2), tensor("second", 32, offset=80)),
    data=100,
)
