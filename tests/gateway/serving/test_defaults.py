"""A model's own defaults: they hold where a request is silent, in every dialect."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from reverie.errors import ConfigurationError, ModelError
from reverie.gateway.serving.defaults import Defaults, completed, defaults_of
from reverie.models.catalogue import CATALOGUE
from reverie.request import GenerateRequest
from reverie.settings import DefaultSettings, ModelSettings, Settings
from reverie.testing import ScriptedEngine
from tests.harness import Gateway, StartGateway, chat

DEFAULTS = {
    "temperature": 0.3, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "max_tokens": 77,
    "repetition_penalty": 1.1,
}  # fmt: skip
PROMPT = {"prompt": "Hi"}
INPUT = {"input": "Hi"}
BOUNDED = chat(max_tokens=9)

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/llm", chat()),
    ("/v1/chat/completions", chat()),
    ("/v1/completions", PROMPT),
    ("/v1/messages", BOUNDED),
    ("/v1/responses", INPUT),
    ("/api/chat", chat(stream=False)),
    ("/api/generate", {**PROMPT, "stream": False}),
]


async def sent(
    engine: ScriptedEngine, gateway: Gateway, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """What reaches the engine of a request."""
    status, answer, _ = await gateway.post({"model": "m", **body}, path)
    assert status == 200, answer
    body_sent: dict[str, Any] = engine.requests[-1].body
    return body_sent


@pytest.fixture
async def gateway(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    return await start_gateway(engine, server={"ollama": True}, model={"defaults": DEFAULTS})


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_they_hold_where_a_request_is_silent(
    engine: ScriptedEngine, gateway: Gateway, path: str, body: dict[str, Any]
) -> None:
    got = await sent(engine, gateway, path, body)
    expected = {**DEFAULTS, "max_tokens": body.get("max_tokens", DEFAULTS["max_tokens"])}
    assert {name: got[name] for name in DEFAULTS} == expected


ALL = {"temperature": 0.7, "top_p": 1.0, "top_k": 3, "max_tokens": 256}
MORE = {"min_p": 0.5, "repetition_penalty": 1.3}
OPTIONS = {
    "temperature": 0.7, "top_p": 1.0, "top_k": 3, "num_predict": 256, "min_p": 0.5,
    "repeat_penalty": 1.3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/llm", chat(**ALL, **MORE), {**ALL, **MORE}),
        ("/v1/chat/completions", chat(max_completion_tokens=5), {"max_tokens": 5}),
        ("/v1/completions", {**PROMPT, **ALL, **MORE}, {**ALL, **MORE}),
        ("/v1/messages", chat(**ALL), ALL),
        (
            "/v1/responses",
            {**INPUT, "temperature": 1.0, "top_p": 1.0, "max_output_tokens": 256},
            {"temperature": 1.0, "top_p": 1.0, "max_tokens": 256},
        ),
        ("/api/chat", chat(stream=False, options=OPTIONS), {**ALL, **MORE}),
    ],
)
async def test_what_a_request_names_stays_even_if_it_is_the_dialects_own_default(
    engine: ScriptedEngine,
    gateway: Gateway,
    path: str,
    body: dict[str, Any],
    named: dict[str, Any],
) -> None:
    got = await sent(engine, gateway, path, body)
    assert {name: got[name] for name in DEFAULTS} == {**DEFAULTS, **named}


async def test_null_and_off_are_told_apart(engine: ScriptedEngine, gateway: Gateway) -> None:
    got = await sent(engine, gateway, "/llm", chat(temperature=None, top_k=-1, min_p=0))
    assert got["temperature"] == DEFAULTS["temperature"]
    assert "top_k" not in got
    assert "min_p" not in got


async def test_each_of_several_answers_has_them(engine: ScriptedEngine, gateway: Gateway) -> None:
    await sent(engine, gateway, "/v1/chat/completions", chat(n=2))
    assert [request.body["temperature"] for request in engine.requests] == [0.3, 0.3]


async def test_a_response_tells_what_was_used(engine: ScriptedEngine, gateway: Gateway) -> None:
    _, silent, _ = await gateway.post({"model": "m", **INPUT}, "/v1/responses")
    _, named, _ = await gateway.post({"model": "m", **INPUT, "temperature": 0.5}, "/v1/responses")
    assert [(one["temperature"], one["top_p"]) for one in (silent, named)] == [
        (0.3, 0.8),
        (0.5, 0.8),
    ]


async def test_a_model_without_any_has_the_dialects(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(engine)
    got = await sent(engine, gateway, "/llm", chat())
    assert (got["temperature"], got["top_p"], got["max_tokens"]) == (0.7, 1.0, 256)
    assert got.keys().isdisjoint({"top_k", "min_p", "repetition_penalty"})


async def test_a_reload_puts_new_ones_in_force_without_another_backend(
    engine: ScriptedEngine, gateway: Gateway
) -> None:
    pool = gateway.pool()
    gateway.written["models"][0]["defaults"] = {"temperature": 1.5}
    await gateway.app.reload()
    assert (await sent(engine, gateway, "/llm", chat()))["temperature"] == 1.5
    assert gateway.pool() is pool


async def test_one_that_an_engine_can_t_honour_is_no_client_s_mistake(
    engine: ScriptedEngine, start_gateway: StartGateway
) -> None:
    openai = {"kind": "openai"}
    with pytest.raises(ModelError, match=r"m can't have these defaults: .*min_p"):
        await start_gateway(engine, backend=openai, model={"defaults": {"min_p": 0.1}})
    gateway = await start_gateway(engine, backend=openai, model={"defaults": {"top_p": 0.5}})
    gateway.written["models"][0]["defaults"] = {"top_k": 5}
    with pytest.raises(ConfigurationError, match="top_k"):
        await gateway.app.reload()
    assert (await sent(engine, gateway, "/llm", chat()))["top_p"] == 0.5


def model(text: str) -> ModelSettings:
    return Settings.model_validate(tomllib.loads(text)).models[0]


SMOL = '[[models]]\nname = "s"\nsource = "smollm2-135m"\n'


def silent(**more: Any) -> GenerateRequest:
    """A request that leaves open whatever isn't given."""
    left_open = frozenset(DefaultSettings.model_fields) - more.keys()
    return GenerateRequest(model="", messages=[], left_open=left_open, **more)


def test_the_catalogues_model_has_its_own_where_a_request_names_none_of_them() -> None:
    known = dict(CATALOGUE[0].defaults)
    for settings in (Settings().default_model, model(SMOL)):
        got = completed(silent(max_tokens=9, top_k=3), defaults_of(settings))
        assert {name: getattr(got, name) for name in known} == known
        assert (got.max_tokens, got.top_k) == (9, 3)


@pytest.mark.parametrize("named", [{"temperature": 0.0}, {"top_p": 1.0}])
def test_half_of_the_catalogues_is_never_mixed_with_what_a_request_names(
    named: dict[str, float],
) -> None:
    request = silent(**named)
    assert completed(request, defaults_of(Settings().default_model)) is request


def test_the_configuration_takes_the_place_of_the_catalogues() -> None:
    changed = defaults_of(model(f"{SMOL}defaults = {{temperature = 0.7}}"))
    assert completed(silent(), changed) == silent()
    longer = completed(silent(), defaults_of(model(f"{SMOL}defaults = {{max_tokens = 9}}")))
    assert (longer.temperature, longer.max_tokens) == (
        dict(CATALOGUE[0].defaults)["temperature"],
        9,
    )


def test_the_catalogues_are_valid_settings_and_leave_the_length_of_answers_alone() -> None:
    for entry in CATALOGUE:
        assert DefaultSettings.model_validate(dict(entry.defaults))
        assert "max_tokens" not in dict(entry.defaults)


def test_another_models_file_has_none_of_its_own() -> None:
    assert defaults_of(model('[[models]]\nname = "s"\nsource = "s.gguf"')) == Defaults({}, {})


def test_both_spellings_of_off_mean_off() -> None:
    for written in (-1, 0):
        text = f'[[models]]\nname = "s"\nsource = "s.gguf"\ndefaults = {{top_k = {written}}}'
        assert defaults_of(model(text)).each == {"top_k": 0}


def test_an_answer_may_be_as_long_as_a_request_wants_it_at_least() -> None:
    request = GenerateRequest(
        model="", messages=[], min_tokens=100, left_open=frozenset({"max_tokens"})
    )
    assert completed(request, Defaults({"max_tokens": 50}, {})).max_tokens == 100
    assert completed(request, Defaults({"max_tokens": 150}, {})).max_tokens == 150


def test_a_request_that_came_from_no_client_is_left_alone() -> None:
    request = GenerateRequest(model="", messages=[], temperature=0.0)
    assert completed(request, Defaults(DEFAULTS, {"temperature": 1.0})) is request
