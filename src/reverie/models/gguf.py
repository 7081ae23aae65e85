"""Reads a GGUF file's header: enough to describe the model and to tell a truncated file.

ggml's docs/gguf.md describes the format.

Rule: no number in a file is trusted. None decides how much memory is allocated, and one that
points outside the file ends the reading with an error of one sentence.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from reverie.errors import ModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MAX_STRING = 8 * 1024 * 1024
_MAX_TENSORS = 1 << 20
_MAX_KEYS = 1 << 16
_MAX_DIMENSION = 1 << 20

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip

_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""Tensor type → values per block, bytes per block (``type_traits`` in ggml)."""


class Header(NamedTuple):
    """What a GGUF file says about its model."""

    architecture: str
    name: str
    context_length: int
    """In tokens, as the model was trained; 4096 if the file doesn't say."""
    chat_template: str | None
    tensors: int
    """Number of tensors."""
    size: int | None
    """The least that the complete file has, in bytes; None if a tensor has an unknown type."""
    kv_bytes_per_token: int
    """Size of the KV cache per token in bytes, at 16 bits a value; 0 if the file doesn't say."""
    parameters: int = 0
    """Numbers in all tensors together."""
    file_type: int = -1
    """How most tensors are quantised (``llama_ftype`` in llama.cpp); -1 if the file doesn't say."""
    causal: bool = True
    """False: each token sees all others, as in encoders, which can't generate and keep no cache."""
    pooling: int = 0
    """How its tokens' vectors become the text's, by llama.cpp's number; ``RANK``: a score. 0: the
    file doesn't say, as that of a model which generates."""


RANK = 4
"""The ``pooling`` of a model that ranks documents."""


class _Damaged(Exception):
    """The header is cut off or makes no sense."""


class _ByteReader:
    """Reads values one after the other; ``at`` is the offset of the next one."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def skip(self, size: int) -> None:
        if size < 0 or self.at + size > len(self._data):
            raise _Damaged
        self.at += size

    def take(self, size: int) -> bytes:
        begin = self.at
        self.skip(size)
        return self._data[begin : self.at]

    def scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def count(self, limit: int) -> int:
        value = int(self.scalar("<Q"))
        if value > limit:
            raise _Damaged
        return value

    def string(self) -> str:
        return self.take(self.count(_MAX_STRING)).decode("utf-8", "replace")

    def skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self.skip(self.count(_MAX_STRING))
        elif kind == _ARRAY:
            self._skip_array()
        else:
            self.skip(struct.calcsize(_form(kind)))

    def _skip_array(self) -> None:
        kind, length = int(self.scalar("<I")), self.count(len(self._data))
        if kind == _ARRAY:
            raise _Damaged  # the format allows arrays of arrays, but nobody writes them
        if kind != _STRING:
            self.skip(struct.calcsize(_form(kind)) * length)
            return
        data, at, end = self._data, self.at, len(self._data)
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(length):  # inlined for speed: a vocabulary has about 10⁵ strings
            if at + 8 > end:
                raise _Damaged
            at += 8 + unpack(data, at)[0]
        if at > end:
            raise _Damaged
        self.at = at


def _form(kind: int) -> str:
    try:
        return _SCALARS[kind]
    except KeyError:
        raise _Damaged from None


def read_header(path: Path) -> Header:
    """Read a GGUF file's header, and check that the file is complete.

    Raises:
        ModelError: the file can't be read, isn't GGUF, or is incomplete.
    """
    try:
        if path.is_fifo():  # opening one would wait for a writer
            raise ModelError(f"{path.name} is not a GGUF model file.")
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ModelError(f"{path.name} is not a GGUF model file.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _read(_ByteReader(data), path.name)
                actual = len(data)
    except _Damaged:
        raise ModelError(
            f"{path.name} is damaged or was not downloaded whole; fetch it again."
        ) from None
    except FileNotFoundError:
        raise ModelError(f"There is no model file {path}. Check the path.") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a folder, not a model file.") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError:
        raise ModelError(f"{str(path)!r} can't be read: no file can have that name.") from None
    if header.size is not None and actual < header.size:
        raise ModelError(
            f"{path.name} has {actual} of {header.size} bytes: it was not downloaded whole; "
            "fetch it again."
        )
    return header


def _read(reader: _ByteReader, name: str) -> Header:
    reader.skip(len(_MAGIC))
    version = int(reader.scalar("<I"))
    if version not in _VERSIONS:
        raise ModelError(f"{name} is a GGUF file of version {version}, which is not supported.")
    tensors, keys = reader.count(_MAX_TENSORS), reader.count(_MAX_KEYS)
    values: dict[str, str | int | float | bool] = {}
    for _ in range(keys):
        key, kind = reader.string(), int(reader.scalar("<I"))
        if kind == _STRING:
            values[key] = reader.string()
        elif kind in _SCALARS:
            values[key] = reader.scalar(_SCALARS[kind])
        else:
            reader.skip_value(kind)
    architecture = str(values.get("general.architecture", ""))
    context = values.get(f"{architecture}.context_length", 4096)
    template = values.get("tokenizer.chat_template")
    pooling = values.get(f"{architecture}.pooling_type")
    alignment = values.get("general.alignment", _ALIGNMENT)
    file_type = values.get("general.file_type")
    size, parameters = _size(
        reader, tensors, alignment if isinstance(alignment, int) else _ALIGNMENT
    )
    return Header(
        architecture=architecture,
        name=str(values.get("general.name", "")),
        context_length=context if type(context) is int and context > 0 else 4096,
        chat_template=template if isinstance(template, str) else None,
        tensors=tensors,
        size=size,
        kv_bytes_per_token=_kv_bytes_per_token(values, architecture),
        parameters=parameters,
        file_type=file_type if type(file_type) is int else -1,
        causal=values.get(f"{architecture}.attention.causal") is not False,
        pooling=pooling if type(pooling) is int and 0 <= pooling <= RANK else 0,
    )


def _kv_bytes_per_token(values: Mapping[str, object], architecture: str) -> int:
    """Two bytes for each number of a key and a value, per KV head and layer.

    If the layers differ in their KV heads (the file then holds an array), each is taken to have
    one for every query head, which is an upper bound.
    """

    def number(key: str, default: int = 0) -> int:
        value = values.get(f"{architecture}.{key}")
        return value if type(value) is int and 0 < value < _MAX_DIMENSION else default

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    pair = number("attention.key_length", width) + number("attention.value_length", width)
    return 2 * number("block_count") * number("attention.head_count_kv", heads) * pair


def _size(reader: _ByteReader, tensors: int, alignment: int) -> tuple[int | None, int]:
    """From the table of tensors: the least size of the complete file in bytes, and the numbers in
    all tensors."""
    end: int | None = 0
    parameters = 0
    for _ in range(tensors):
        reader.skip(reader.count(_MAX_STRING))
        values = 1
        dimensions = int(reader.scalar("<I"))
        if dimensions > 8:
            raise _Damaged
        for _ in range(dimensions):
            values *= int(reader.scalar("<Q"))
        parameters += values
        kind, offset = int(reader.scalar("<I")), int(reader.scalar("<Q"))
        if kind not in _BLOCKS:
            end = None
        elif end is not None:
            per_block, size = _BLOCKS[kind]
            end = max(end, offset + values // per_block * size)
    if end is None:
        return None, parameters
    alignment = max(1, alignment)
    return -(-reader.at // alignment) * alignment + end, parameters
