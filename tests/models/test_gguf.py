"""Reading the headers of GGUF files: whole, truncated, damaged, and hostile ones."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie.errors import ModelError
from reverie.models.gguf import RANK, read_header
from reverie.models.store import fetch
from tests.models.gguf_file import (
    ARRAY,
    BOOL,
    FLOAT32,
    SMALL,
    STRING,
    UINT64,
    UNKNOWN_TYPE,
    gguf,
    key,
    number,
    string,
    tensor,
    text,
)

Write = Callable[[bytes], Path]


@pytest.fixture(scope="session")
def model() -> Path:
    return fetch("smollm2-135m")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes) -> Path:
        file = tmp_path / "model.gguf"
        file.write_bytes(data)
        return file

    return write


def sentence(file: Path) -> str:
    """The error message for a file that can't be used."""
    with pytest.raises(ModelError) as caught:
        read_header(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_the_default_models_header_is_read(model: Path) -> None:
    header = read_header(model)
    assert header.architecture == "llama"
    assert header.name.startswith("Smollm2 135M")
    assert header.context_length == 8192
    assert header.chat_template is not None
    assert "<|im_start|>" in header.chat_template
    assert header.tensors == 272
    assert header.size == model.stat().st_size
    assert header.kv_bytes_per_token == 23040  # 30 layers, 3 heads, 2 × 64 numbers of 16 bits


def test_a_small_file_is_read(write: Write) -> None:
    header = read_header(write(SMALL))
    assert header == ("llama", "Small", 2048, "{{ messages }}", 2, len(SMALL), 0, 160, -1, True, 0)


def test_what_a_file_does_not_say_has_a_default(write: Write) -> None:
    header = read_header(write(gguf()))
    assert (header.architecture, header.name, header.chat_template) == ("", "", None)
    assert header.context_length == 4096


def test_the_memory_of_a_token_follows_from_the_models_shape(write: Write) -> None:
    def bytes_per_token(*keys: bytes) -> int:
        return read_header(write(gguf(text("general.architecture", "a"), *keys))).kv_bytes_per_token

    shape = (number("a.block_count", 10), number("a.attention.head_count", 8))
    assert bytes_per_token(*shape, number("a.embedding_length", 256)) == 2 * 10 * 8 * (32 + 32)
    grouped = (*shape, number("a.attention.head_count_kv", 2))
    assert bytes_per_token(*grouped, number("a.embedding_length", 256)) == 2 * 10 * 2 * (32 + 32)
    wide = (number("a.attention.key_length", 100), number("a.attention.value_length", 50))
    assert bytes_per_token(*grouped, *wide) == 2 * 10 * 2 * 150
    assert bytes_per_token(*shape) == 0
    assert bytes_per_token(text("a.block_count", "ten"), *shape[1:], *wide) == 0


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (number("bert.pooling_type", 4), RANK),
        (number("bert.pooling_type", 1), 1),
        (number("bert.pooling_type", 99), 0),
        (text("bert.pooling_type", "mean"), 0),
        (key("bert.pooling_type", BOOL, b"\x01"), 0),
    ],
)
def test_an_encoder_is_told_by_its_attention_and_its_pooling(
    write: Write, pooling: bytes, expected: int
) -> None:
    causal = key("bert.attention.causal", BOOL, b"\0")
    header = read_header(write(gguf(text("general.architecture", "bert"), causal, pooling)))
    assert (header.causal, header.pooling) == (False, expected)


@pytest.mark.parametrize(
    "length",
    [
        number("llama.context_length", 0),
        text("llama.context_length", "many"),
        key("llama.context_length", BOOL, b"\x01"),
        key("llama.context_length", FLOAT32, struct.pack("<f", 1.0)),
    ],
)
def test_a_context_length_that_is_none_is_passed_over(write: Write, length: bytes) -> None:
    assert (
        read_header(write(gguf(text("general.architecture", "llama"), length))).context_length
        == 4096
    )


def test_the_alignment_of_a_file_counts(write: Write) -> None:
    whole = gguf(number("general.alignment", 4096), tensors=(tensor("t", 32),), data=4096)
    size = read_header(write(whole + bytes(4096))).size
    assert size == 4096 + 20
    assert "not downloaded whole" in sentence(write(whole[:4100]))


def test_a_tensor_of_a_type_that_is_not_known_is_no_reason_to_refuse(write: Write) -> None:
    header = read_header(write(gguf(tensors=(tensor("t", 1 << 40, kind=UNKNOWN_TYPE),))))
    assert (header.tensors, header.size) == (1, None)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert (
        sentence(tmp_path / "none.gguf")
        == f"There is no model file {tmp_path}/none.gguf. Check the path."
    )


def test_a_folder_is_called_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in sentence(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "is not a GGUF model file" in sentence(tmp_path / "pipe.gguf")


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    assert "can't be read" in sentence(tmp_path / ("n" * 300 + ".gguf"))
    assert "can't be read" in sentence(tmp_path / "zero\0.gguf")


@pytest.mark.parametrize("data", [b"", b"GGU", b"GGML" + bytes(100), b"PK\x03\x04", b"<html>"])
def test_a_foreign_file_is_called_so(write: Write, data: bytes) -> None:
    assert sentence(write(data)) == "model.gguf is not a GGUF model file."


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_another_version_of_the_format_is_named(write: Write, version: int) -> None:
    assert f"version {version}" in sentence(write(gguf(version=version)))


def test_a_small_file_cut_anywhere_is_called_cut(write: Write) -> None:
    for end in range(4, len(SMALL)):
        assert "not downloaded whole" in sentence(write(SMALL[:end])), end


@pytest.mark.parametrize("kept", [4, 24, 25, 1000, 100_000, 1_000_000, 3_000_000, 98_362_431])
def test_the_default_model_cut_anywhere_is_called_cut(
    model: Path, tmp_path: Path, kept: int
) -> None:
    file = tmp_path / "cut.gguf"
    with model.open("rb") as whole:
        file.write_bytes(whole.read(min(kept, 4_000_000)))
    os.truncate(file, kept)  # only the length of the tensors' data matters
    assert "not downloaded whole" in sentence(file)


@pytest.mark.parametrize(
    "header",
    [
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1),
        b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63),
        gguf(key("k", STRING, struct.pack("<Q", 2**64 - 1))),
        gguf(key("k", ARRAY, struct.pack("<IQ", UINT64, 2**64 - 1))),
        gguf(key("k", ARRAY, struct.pack("<IQ", STRING, 2**64 - 1))),
        gguf(key("k", ARRAY, struct.pack("<IQQ", STRING, 1, 2**64 - 1))),
        gguf(key("k", ARRAY, struct.pack("<IQ", ARRAY, 1))),
        gguf(key("k", ARRAY, struct.pack("<IQ", UNKNOWN_TYPE, 1))),
        gguf(key("k", UNKNOWN_TYPE, b"")),
        gguf(tensors=(tensor("t", *[2] * 9),)),
        gguf(tensors=(tensor("t", *[2**64 - 1] * 8, offset=2**64 - 1),)),
    ],
)
def test_absurd_numbers_are_called_damage(write: Write, header: bytes) -> None:
    assert "whole; fetch it again" in sentence(write(header + bytes(64)))


def test_a_file_is_not_read_into_memory_to_be_measured(tmp_path: Path) -> None:
    file = tmp_path / "large.gguf"
    scores = key("scores", ARRAY, struct.pack("<IQ", FLOAT32, 1 << 26))
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + scores)
    os.truncate(file, 1 << 30)
    tracemalloc.start()
    try:
        read_header(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def _harmless(file: Path, data: bytes) -> None:
    """Assert that these bytes give a header or a one-line error, and take little memory."""
    file.write_bytes(data)
    tracemalloc.start()
    try:
        header = read_header(file)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert header.context_length > 0
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20


_FUZZ = settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@_FUZZ
@given(data=st.binary(max_size=300))
def test_any_bytes_after_the_magic_do_no_harm(tmp_path: Path, data: bytes) -> None:
    _harmless(tmp_path / "any.gguf", b"GGUF" + data)


@_FUZZ
@given(
    counts=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    data=st.lists(
        st.one_of(
            st.binary(max_size=9),
            st.integers(0, 40).map(lambda n: struct.pack("<I", n)),
            st.integers(0, 40).map(lambda n: struct.pack("<Q", n)),
            st.just(b"\xff" * 8),
            st.just(string("general.architecture")),
        )
    ),
)
def test_bytes_that_look_like_a_header_do_no_harm(
    tmp_path: Path, counts: tuple[int, int], data: list[bytes]
) -> None:
    _harmless(tmp_path / "near.gguf", b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"".join(data))


@_FUZZ
@given(
    changes=st.lists(
        st.tuples(st.integers(4, len(SMALL) - 1), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=3,
    )
)
def test_a_small_file_with_any_bytes_changed_does_no_harm(
    tmp_path: Path, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(SMALL)
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    _harmless(tmp_path / "changed.gguf", bytes(data))
