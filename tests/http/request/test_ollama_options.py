"""Each option is mapped, told to have no effect, or refused by its name: none is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.errors import InvalidRequest, UnsupportedParameter
from reverie.http.request.ollama import Parsed, parse_chat
from reverie.request import DEFAULT_MAX_TOKENS, GenerateRequest


def parsed(**options: Any) -> Parsed:
    body = {"messages": [{"role": "user", "content": "Hi"}], "options": options}
    return parse_chat(json.dumps(body).encode())


MAPPED = {
    "num_predict": ("max_tokens", st.integers(1, 2**31 - 1)),
    "temperature": ("temperature", st.floats(0, 2)),
    "top_k": ("top_k", st.integers(0, 2**31 - 1)),
    "top_p": ("top_p", st.floats(0, 1, exclude_min=True)),
    "min_p": ("min_p", st.floats(0, 1)),
    "seed": ("seed", st.integers(0, 2**63 - 1)),
    "stop": ("stop", st.lists(st.text(min_size=1, max_size=9), max_size=16)),
    "repeat_penalty": ("repetition_penalty", st.floats(0.1, 10)),
    "presence_penalty": ("presence_penalty", st.floats(-2, 2)),
    "frequency_penalty": ("frequency_penalty", st.floats(-2, 2)),
}
IGNORED = ["num_ctx", "num_keep", "num_gpu", "num_thread", "num_batch", "main_gpu", "use_mmap"]
IGNORED += ["repeat_last_n", "numa", "low_vram", "f16_kv", "use_mlock", "vocab_only", "later_ones"]


@given(
    st.fixed_dictionaries({}, optional={name: values for name, (_, values) in MAPPED.items()}),
    st.dictionaries(st.sampled_from(IGNORED), st.integers() | st.booleans()),
)
def test_options_within_their_bounds_are_mapped_or_told(
    mapped: dict[str, Any], ignored: dict[str, Any]
) -> None:
    request, told, _ = parsed(**mapped, **ignored)
    default = parsed().request
    for name, (field, _) in MAPPED.items():
        value = getattr(request, field)
        if name not in mapped:
            assert value == getattr(default, field)
        elif name == "stop":
            assert value == tuple(mapped[name])
        else:
            assert value == mapped[name]
    assert set(told) == {f"options.{name}" for name in ignored}


def outcome(**options: Any) -> GenerateRequest | InvalidRequest:
    try:
        return parsed(**options).request
    except InvalidRequest as error:
        return error


def within_bounds(request: GenerateRequest) -> bool:
    return (
        1 <= request.max_tokens < 2**31
        and 0 <= request.temperature <= 2
        and 0 <= request.top_k < 2**31
        and 0 < request.top_p <= 1
        and 0 <= request.min_p <= 1
        and (request.seed is None or -(2**63) <= request.seed < 2**63)
        and 0 < request.repetition_penalty <= 10
        and -2 <= request.presence_penalty <= 2
        and -2 <= request.frequency_penalty <= 2
        and all(request.stop)
    )


@given(
    st.dictionaries(
        st.sampled_from([*MAPPED, "mirostat", "tfs_z", "typical_p", "penalize_newline"]),
        st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
        | st.lists(st.text()),
    )
)
def test_whatever_is_sent_is_within_the_bounds_of_every_dialect_or_refused_by_name(
    options: dict[str, Any],
) -> None:
    made = outcome(**options)
    if isinstance(made, InvalidRequest):
        assert str(made.param).split(".")[1] in options
    else:
        assert within_bounds(made)


def test_without_options_the_answer_is_as_ollama_s() -> None:
    request = parsed().request
    assert (request.max_tokens, request.temperature) == (DEFAULT_MAX_TOKENS, 0.8)
    assert (request.top_p, request.top_k, request.repetition_penalty) == (1.0, 0, 1.0)


@pytest.mark.parametrize("unlimited", [-2, -1, 0, None])
def test_an_answer_without_a_limit_has_the_default_one(unlimited: int | None) -> None:
    assert parsed(num_predict=unlimited).request.max_tokens == DEFAULT_MAX_TOKENS


def test_a_stop_string_may_stand_alone_and_a_seed_of_minus_one_is_random() -> None:
    request = parsed(stop="END", seed=-1, top_k=-1).request
    assert (request.stop, request.seed, request.top_k) == (("END",), None, 0)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"mirostat": 2, "mirostat_tau": 5}, "mirostat"),
        ({"tfs_z": 0.5}, "tfs_z"),
        ({"typical_p": 0.7}, "typical_p"),
        ({"penalize_newline": False, "repeat_penalty": 1.1}, "penalize_newline"),
        ({"penalize_newline": False, "presence_penalty": 0.5}, "penalize_newline"),
    ],
)
def test_ways_to_sample_that_are_not_there_are_refused(
    options: dict[str, Any], refused: str
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        parsed(**options)
    assert caught.value.param == f"options.{refused}"


@pytest.mark.parametrize(
    "options",
    [
        {"mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1},
        {"tfs_z": 1},
        {"typical_p": 1.0},
        {"penalize_newline": False},
        {"penalize_newline": True, "repeat_penalty": 1.1},
    ],
)
def test_what_is_off_is_no_mistake(options: dict[str, Any]) -> None:
    assert parsed(**options).ignored == ()
