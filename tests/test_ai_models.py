"""Livepeer's ``aiModels.json`` as Reverie's configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reverie import ai_models
from reverie.ai_models import AiModels
from reverie.errors import ConfigurationError
from reverie.settings import ModelSettings, PriceSettings, Settings

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
URL = "http://10.0.0.5:8000"
TOKEN = "s3cret-token"
PAGE = Path(__file__).parent.parent / "docs" / "livepeer.md"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def llm(model_id: str = "meta-llama/Llama-3.1-8B-Instruct", **more: Any) -> dict[str, Any]:
    return {"pipeline": "llm", "model_id": model_id, **more}


def read(*entries: Any) -> AiModels:
    Path("ai.json").write_text(json.dumps(entries))
    return ai_models.read(Path("ai.json"))


def only(*entries: Any) -> ModelSettings:
    """The one model of a file of which nothing is to be said."""
    found = read(*entries)
    assert found.remarks == ()
    (model,) = found.models
    return model


def problems(*entries: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(*entries)
    assert TOKEN not in str(caught.value)
    return caught.value.problems


# What is understood ------------------------------------------------------------------------


def test_an_entry_with_a_url_is_a_livepeer_backend() -> None:
    model = only(llm(url=f"{URL}/", token=TOKEN, warm=True, capacity=4))
    assert (model.name, model.source) == ("meta-llama/Llama-3.1-8B-Instruct", None)
    (backend,) = model.backends
    assert (backend.url, backend.kind, backend.slots) == (URL, "livepeer", 4)
    assert backend.key is not None
    assert backend.key.get_secret_value() == TOKEN


@pytest.mark.parametrize("fields", [{}, {"capacity": 0}, {"token": "", "capacity": None}])
def test_capacity_is_one_and_there_is_no_token_unless_they_are_written(
    fields: dict[str, Any],
) -> None:
    (backend,) = only(llm(url=URL, **fields)).backends
    assert (backend.slots, backend.key) == (1, None)


def test_the_token_is_nowhere_to_be_seen() -> None:
    found = read(llm(url=URL, token=TOKEN))
    (model,) = found.models
    settings = Settings(models=found.models)
    for shown in (repr(found), str(model), repr(model.backends[0].key), settings.model_dump_json()):
        assert TOKEN not in shown


def test_another_token_is_another_configuration() -> None:
    before, again, after = (only(llm(url=URL, token=token)) for token in ("a", "a", "b"))
    assert before == again
    assert before != after


@pytest.mark.parametrize(("name", "other"), [(SMOL, "smollm2-135m"), ("smollm2-135m", SMOL)])
def test_an_entry_without_a_url_is_a_model_of_the_catalogue_to_run_here(
    name: str, other: str
) -> None:
    model = only(llm(name, capacity=3, warm=True))
    assert (model.name, model.aliases, model.source) == (name, (other,), name)
    assert model.slots == 3


@pytest.mark.parametrize(("fields", "warm"), [({}, True), ({"warm": False}, False)])
def test_a_model_that_runs_here_is_loaded_at_the_start_unless_it_is_not_to_be_warm(
    fields: dict[str, Any], warm: bool
) -> None:
    assert only(llm(SMOL, **fields)).warm is warm


@pytest.mark.parametrize("ref", ["hf:owner/repo", "hf:owner/repo/file.gguf", "/models/a.gguf"])
def test_any_reference_to_a_model_can_be_run_here(ref: str) -> None:
    assert only(llm(ref)).source == ref


def test_two_names_of_one_model_stay_two_models() -> None:
    first, second = read(llm(SMOL), llm("smollm2-135m")).models
    assert (first.aliases, second.aliases) == ((), ())


def test_entries_of_one_model_add_up() -> None:
    model = only(llm("m", url=URL, token=TOKEN), llm("m", url="http://b", capacity=2))
    assert [(backend.url, backend.slots) for backend in model.backends] == [
        (URL, 1),
        ("http://b", 2),
    ]
    assert model.backends[0].key is not None
    assert model.backends[1].key is None
    assert only(llm(SMOL, capacity=2), llm(SMOL)).slots == 3


def test_models_keep_the_order_of_the_file() -> None:
    found = read(llm("b", url=URL), llm("a", url=URL))
    settings = Settings(models=found.models)
    assert [model.name for model in settings.models] == ["b", "a"]
    assert settings.default_model.name == "b"


def test_the_entry_in_the_documentation_is_understood() -> None:
    examples = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (example,) = [one for one in examples if '"pipeline"' in one]
    model = only(*json.loads(example))
    assert model.backends[0].slots == 8
    assert model.price == PriceSettings(output="0.18USD")


# Prices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "per_million"),
    [
        ('"price_per_unit": 0.18, "pixels_per_unit": 1000000, "currency": "USD"', "0.18USD"),
        ('"price_per_unit": 1.8e-7, "currency": "usd"', "0.18USD"),
        ('"price_per_unit": "1.8e-7USD"', "0.18USD"),
        ('"price_per_unit": 3, "pixels_per_unit": 3e6, "currency": "EUR"', "1EUR"),
        ('"price_per_unit": 7, "pixels_per_unit": 7000000, "currency": "USD"', "1USD"),
        ('"price_per_unit": 0', "0USD"),
        ('"price_per_unit": -0.0', "0USD"),
        ('"pixels_per_unit": 1, "currency": "USD"', "0USD"),
    ],
)
def test_the_price_of_a_unit_is_that_of_a_token_of_the_answer(price: str, per_million: str) -> None:
    Path("ai.json").write_text(f'[{{"pipeline": "llm", "model_id": "m", "url": "{URL}", {price}}}]')
    found = ai_models.read(Path("ai.json"))
    assert found.remarks == ()
    price_of_prompts = f"0{per_million.lstrip('0123456789.')}"
    assert found.models[0].price == PriceSettings(input=price_of_prompts, output=per_million)


@pytest.mark.parametrize(
    ("price", "why"),
    [
        ({"price_per_unit": 4768371}, "prices in wei are not kept"),
        ({"price_per_unit": 1, "currency": "ETH"}, "prices in eth are not kept"),
        ({"price_per_unit": 1, "currency": "USD", "pixels_per_unit": 3}, "no whole number of USD"),
        ({"price_per_unit": 1e-10, "currency": "USD"}, "no whole number of USD"),
        ({"price_per_unit": 10**9, "currency": "USD"}, "write an amount (at most 1000000000)"),
        ({"price_per_unit": 1, "currency": "US dollars"}, "write an amount"),
    ],
)
def test_a_price_that_cannot_be_kept_is_left_out_and_that_is_said(
    price: dict[str, Any], why: str
) -> None:
    found = read(llm("m", url=URL, **price))
    assert found.models[0].price == PriceSettings()
    (remark,) = found.remarks
    assert remark.startswith("ai.json: [0].price_per_unit: ")
    assert why in remark
    assert remark.endswith("the model's tokens cost nothing here")


# What has no effect ------------------------------------------------------------------------


def test_what_has_no_effect_is_said_by_name_and_is_no_mistake() -> None:
    found = read(
        {"pipeline": "text-to-image", "model_id": "x", "capacity": "nonsense"},
        llm(SMOL, token=TOKEN, warm=False, colour="red", gateway="0x1"),
        llm("m", url=URL, optimization_flags={"SFAST": True}),
        llm("m", url=URL, price_per_unit=1e-6, currency="USD"),
        llm(SMOL, warm=True),
    )
    assert [model.name for model in found.models] == [SMOL, "m"]
    assert [remark.split(": ")[:2] for remark in found.remarks] == [
        ["ai.json", f"[{index}].{key}"]
        for index, key in [
            (0, "pipeline"),
            (1, "colour"),
            (1, "gateway"),
            (2, "optimization_flags"),
            (1, "token"),
            (3, "price_per_unit"),
            (4, "warm"),
        ]
    ]
    assert "'text-to-image'" in found.remarks[0]
    assert TOKEN not in str(found.remarks)


def test_remarks_are_short_and_printable() -> None:
    odd = "\x1b[31m" + "x" * 1000
    found = read(
        {"pipeline": "y" * 1000},
        llm("m", url=URL, **{odd: 1}, price_per_unit=0.3, pixels_per_unit=7, currency="z" * 1000),
    )
    assert len(found.remarks) == 3
    assert all(len(remark) < 200 and remark.isprintable() for remark in found.remarks)
    assert "\\x1b[31mxxx" in found.remarks[1]


# Mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "where", "what"),
    [
        ("llm", "[0]", "must be an object"),
        ({}, "[0].pipeline", "must be a text"),
        ({"pipeline": 1}, "[0].pipeline", "must be a text"),
        ({"pipeline": "llm"}, "[0].model_id", "Field required"),
        (llm(1), "[0].model_id", "valid string"),
        (llm("", url=URL), "[0].model_id", "at least 1 character"),
        (llm(url=1), "[0].url", "valid string"),
        (llm(url="10.0.0.5:8000"), "[0].url", "http://"),
        (llm(url=f"http://me:{TOKEN}@h"), "[0].url", "must not carry a password"),
        (llm(url=URL, token=[TOKEN]), "[0].token", "valid string"),
        (llm(url=URL, token=TOKEN + "\n"), "[0].token", "isn't plain text"),
        (llm(url=URL, warm="yes"), "[0].warm", "valid boolean"),
        (llm(url=URL, capacity=1.5), "[0].capacity", "valid integer"),
        (llm(url=URL, capacity=True), "[0].capacity", "valid integer"),
        (llm(url=URL, capacity=-1), "[0].capacity", "greater than or equal to 0"),
        (llm(SMOL, capacity=1000), "[0].capacity", "less than or equal to 256"),
        (llm(url=URL, price_per_unit="free"), "[0].price_per_unit", "must be a number"),
        (llm(url=URL, price_per_unit=-1), "[0].price_per_unit", "must not be negative"),
        (llm(url=URL, price_per_unit=10**50), "[0].price_per_unit", "out of bounds"),
        (llm(url=URL, pixels_per_unit=0), "[0].pixels_per_unit", "at least 1"),
        (llm(url=URL, pixels_per_unit=1.5), "[0].pixels_per_unit", "whole number"),
        (llm(url=URL, currency=1), "[0].currency", "valid string"),
        (llm(), "[0].model_id", "give the url of a server"),
        (llm("a\0", url=URL), "[0].model_id", "must not have control characters"),
        (llm("\x1b[31m"), "[0].model_id", "must not have control characters"),
        (llm(url=URL + "/\x1b"), "[0].url", "must not have control characters"),
        (llm(url=f"{URL}?{TOKEN}"), "[0].url", "must end before the ? of a query"),
        (llm(url=URL, currency="\x1b"), "[0].currency", "must not have control characters"),
        ({"pipeline": "\x1b"}, "[0].pipeline", "must not have control characters"),
    ],
)
def test_a_mistake_is_named_with_file_index_and_key(entry: Any, where: str, what: str) -> None:
    (problem,) = problems(entry)
    assert problem.startswith(f"ai.json: {where}: ")
    assert what in problem


def test_every_mistake_is_named() -> None:
    found = problems(llm(1, warm=1), llm("a", url=URL), llm("b", url="b"))
    assert [problem.split(": ")[1] for problem in found] == [
        "[0].model_id",
        "[0].warm",
        "[2].url",
    ]


def test_a_model_is_run_here_or_reached_elsewhere() -> None:
    (problem,) = problems(llm(SMOL), llm(SMOL, url=URL))
    assert problem == f"ai.json: [1].url: {SMOL} is run here by an earlier entry"
    (problem,) = problems(llm(SMOL, url=URL), llm(SMOL))
    assert problem == f"ai.json: [1].url: {SMOL} is reached elsewhere by an earlier entry"


def test_a_file_without_a_model_to_serve_is_a_mistake() -> None:
    (problem,) = problems({"pipeline": "text-to-image", "model_id": "x"})
    assert problem == "ai.json: no entry has the pipeline llm"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[{]", "is not valid JSON"),
        ('[{"pipeline": "llm",}]', "is not valid JSON"),
        ("[NaN]", "is not valid JSON"),
        ("[1e999999999999999999999]", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ("{}", "must be a list of entries"),
        (None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_mistake(text: str | None, what: str) -> None:
    file = Path("ai.json")
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError) as caught:
        ai_models.read(file)
    (problem,) = caught.value.problems
    assert problem.startswith(f"ai.json: {what}")
