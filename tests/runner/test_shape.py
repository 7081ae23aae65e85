"""What an engine is given, by its model and its task."""

from __future__ import annotations

from typing import Any

import pytest

from reverie.errors import ModelError
from reverie.models.gguf import RANK, Header
from reverie.runner.shape import Shape, shape_of
from reverie.settings import ModelSettings

MEAN = 1


def header(context: int = 8192, **more: Any) -> Header:
    return Header("a", "", context, None, 1, None, 7, **more)


def shape(header: Header, **settings: Any) -> Shape:
    return shape_of("m.gguf", header, ModelSettings(name="m", source="file", **settings))


def test_one_that_generates_shares_twice_its_context_in_small_batches() -> None:
    assert shape(header()) == Shape(8192, 16384, 0, 8, "")
    assert shape(header(100_000)).context == 32768
    assert shape(header(), context=512, kv_tokens=600, batch=64) == Shape(512, 600, 64, 8, "")


def test_an_encoder_reads_each_text_in_one_batch_and_keeps_nothing() -> None:
    encoder = header(512, causal=False, pooling=MEAN)
    assert shape(encoder, task="embed") == Shape(512, 0, 512, 8, "")
    # It has no position for more.
    assert shape(encoder, task="embed", context=4096).context == 512
    assert shape(header(8192, causal=False), task="embed").context == 2048
    assert shape(header(8192, causal=False), task="embed", context=8192).batch == 8192


def test_others_run_as_many_at_once_as_their_cache_holds() -> None:
    decoder = header(32768, pooling=3)
    assert shape(decoder, task="embed") == Shape(2048, 16384, 2048, 8, "")
    assert shape(decoder, task="embed", context=8192) == Shape(8192, 32768, 8192, 4, "")
    assert shape(decoder, task="embed", context=8192, kv_tokens=100).slots == 1


def test_a_model_that_says_nothing_of_pooling_gives_the_mean() -> None:
    assert shape(header(), task="embed").pooling == "mean"


@pytest.mark.parametrize(
    ("header", "task", "told"),
    [
        (header(causal=False, pooling=MEAN), "generate", 'task = "embed"'),
        (header(causal=False, pooling=RANK), "generate", 'task = "rerank"'),
        (header(pooling=RANK), "embed", 'task = "rerank"'),
        (header(pooling=MEAN), "rerank", "rank"),
        (header(), "rerank", "rank"),
    ],
)
def test_a_model_that_is_not_made_for_its_task_is_refused(
    header: Header, task: str, told: str
) -> None:
    with pytest.raises(ModelError, match=r"^m\.gguf ") as refused:
        shape(header, task=task)
    assert told in str(refused.value)
