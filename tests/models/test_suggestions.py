"""Suggested models: references that can be served, and what fits into a machine."""

from __future__ import annotations

import pytest

from reverie.models.reference import HubReference, parse
from reverie.models.suggestions import SUGGESTIONS, Suggestion, fitting
from reverie.runner.shape import DEFAULT_CONTEXT

GB = 10**9


@pytest.mark.parametrize("one", SUGGESTIONS, ids=lambda one: one.ref)
def test_each_names_a_file_of_the_hub_of_the_quantisation_that_it_says(one: Suggestion) -> None:
    reference = parse(one.ref)
    assert isinstance(reference, HubReference)
    assert reference.file is not None
    assert one.quantization.lower() in reference.file.lower()


def test_a_size_is_parameters_times_bits_and_memory_holds_the_cache_of_the_default_context() -> (
    None
):
    one = Suggestion("hf:a/b/c.gguf", "tests", 2.0, "Q8_0", "MIT", layers=10, kv_heads=2, head=64)
    assert one.size == 2 * GB * 34 // 32
    kv = DEFAULT_CONTEXT * 2 * 10 * 2 * 64 * 2  # keys and values, two bytes each
    assert 0 < one.memory - one.size - kv < 0.5 * GB


def test_a_model_that_keeps_no_cache_takes_little_more_than_its_file() -> None:
    encoders = [one for one in SUGGESTIONS if not one.causal]
    assert encoders
    for one in encoders:
        assert one.task != "generate"
        assert one.memory - one.size < 0.2 * GB


def test_what_fits_leaves_room_and_the_largest_comes_first() -> None:
    for memory in (8 * GB, 16 * GB, 64 * GB):
        found = fitting(memory)
        chats = [one for one in found if one.task == "generate"]
        assert chats == found[: len(chats)], "those that generate come first"
        assert chats == sorted(chats, key=lambda one: -one.parameters)
        assert all(one.memory < memory for one in found)
    assert len(fitting(8 * GB)) < len(fitting(64 * GB)) < len(fitting(1000 * GB))
    assert set(fitting(1000 * GB)) == set(SUGGESTIONS)


def test_nothing_fits_into_nothing() -> None:
    assert fitting(0) == []
