"""The ``-liveRunnerConfig`` that settings make."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import reverie
from reverie.errors import ConfigurationError
from reverie.live_runners import LiveRunners, Wishes, describe
from reverie.settings import Settings

URL = "http://10.0.0.5:9100/v1"


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "backends": [{"url": URL}], **more}


def found(
    *models: dict[str, Any],
    server: dict[str, Any] | None = None,
    keyless: bool = False,
    **wishes: Any,
) -> LiveRunners:
    written = {"server": server or {}, "models": list(models or [model("m")])}
    return describe(Settings.model_validate(written), Wishes(**wishes), keyless=keyless)


def entries(*models: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """What the file says of each runner."""
    runners: list[dict[str, Any]] = json.loads(found(*models, **more).json)["runners"]
    return runners


def remarks(*models: dict[str, Any], price: str | None = "1USD", **more: Any) -> str:
    return "\n".join(found(*models, price=price, **more).remarks)


def test_an_entry_has_what_an_orchestrator_needs() -> None:
    assert entries(price="0.002USD") == [
        {
            "label": "reverie-m",
            "routing": "label",
            "runner_url": "http://127.0.0.1:8000",
            "health_url": "/readyz",
            "healthy_status_code": 200,
            "app": "llm/m",
            "version": reverie.__version__,
            "metadata": '{"model":"m"}',
            "mode": "single-shot",
            "capacity": 64,
            "price_info": {"price": 0.002, "currency": "usd", "unit": "fixed"},
        }
    ]


def test_each_model_is_a_runner_with_its_task_and_its_slots() -> None:
    here = {"name": "here", "source": "smollm2-135m", "slots": 3}
    two = [{"url": URL, "slots": 2}, {"url": URL, "slots": 5}]
    told = [
        (entry["app"], entry["capacity"])
        for entry in entries(
            here, model("there", backends=two), model("v", task="embed"), model("r", task="rerank")
        )
    ]
    assert told == [("llm/here", 3), ("llm/there", 7), ("embed/v", 64), ("rerank/r", 64)]


def test_labels_can_stand_in_paths_and_differ() -> None:
    names = ["Qwen/Qwen3 8B", "qwen-qwen3-8b", "模型", "型"]
    labels = [entry["label"] for entry in entries(*map(model, names), label="gpu_1")]
    assert labels == [
        "gpu_1-qwen-qwen3-8b",
        "gpu_1-qwen-qwen3-8b-2",
        "gpu_1-model",
        "gpu_1-model-2",
    ]
    assert entries(model(names[0]))[0]["app"] == "llm/Qwen/Qwen3 8B"


@pytest.mark.parametrize("label", ["", " x", "a/b", "a b", "a\n", "x" * 65])
def test_a_label_that_an_orchestrator_would_refuse_is_a_mistake(label: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        found(label=label)
    assert caught.value.problems[0].startswith("command line: --label: must be ")


def test_the_metadata_of_the_longest_name_is_within_the_orchestrators_bound() -> None:
    for character in ('"', "\U0001f600"):
        (entry,) = entries(model(character * 200))
        assert len(entry["metadata"].encode()) <= 1024


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("10.0.0.7", "http://10.0.0.7:8000"),
    ],
)
def test_the_url_is_the_address_to_listen_on(host: str, url: str) -> None:
    (entry,) = entries(server={"host": host})
    assert entry["runner_url"] == url
    assert ("--runner-url for one on another" in remarks(server={"host": host})) == (
        host in ("0.0.0.0", "::")
    )


def test_another_url_can_be_given_and_has_to_be_where_the_port_is_any() -> None:
    (entry,) = entries(server={"port": 0}, runner_url="https://gpu.example:8443/reverie/")
    assert entry["runner_url"] == "https://gpu.example:8443/reverie"
    with pytest.raises(ConfigurationError) as caught:
        found(server={"port": 0})
    assert caught.value.problems[0].startswith("command line: --runner-url: is needed")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.7:8000",
        "/x",
        "http://",
        "http:///x",
        "ftp://h",
        "http+unix://%2Fs/v1",
        "http://user:key@h",
        "http://h/?a=b",
        "http://h/#x",
        "http://h h",
        "http://h:99999",
        "http://[::1",
        "http://h/\n",
    ],
)
def test_a_url_that_can_not_be_passed_on_to_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        found(runner_url=url)
    assert caught.value.problems[0].startswith("command line: --runner-url: must be ")


def test_a_server_that_only_this_machine_reaches_is_told_of_a_url_elsewhere() -> None:
    elsewhere = "http://10.0.0.7:8000"
    assert "--runner-url names another" in remarks(runner_url=elsewhere)
    assert remarks(runner_url=elsewhere, server={"host": "10.0.0.7"}) == ""
    assert remarks(runner_url="http://localhost:8000") == ""


@pytest.mark.parametrize(
    ("text", "price", "unit"),
    [
        ("0.002USD", "0.002", "fixed"),
        ("0.002 USD/request", "0.002", "fixed"),
        ("3.50USD/hour", "3.5", "hour"),
        ("10USD", "10", "fixed"),
        ("0.000000001USD", "0.000000001", "fixed"),
    ],
)
def test_a_price_is_for_a_request_or_for_an_hour_and_exact(
    text: str, price: str, unit: str
) -> None:
    (entry,) = json.loads(found(price=text).json, parse_float=Decimal)["runners"]
    assert entry["price_info"] == {"price": Decimal(price), "currency": "usd", "unit": unit}


@pytest.mark.parametrize("text", ["", "0USD", "1", "1EUR", "-1USD", "1USD/day", "1USD/", "free"])
def test_a_price_that_an_orchestrator_would_refuse_is_a_mistake(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        found(price=text)
    assert caught.value.problems == [
        "command line: --price: write more than 0 USD per request or per hour, as in 0.002USD or "
        "3.50USD/hour"
    ]


def test_the_models_own_price_is_that_of_a_typical_request() -> None:
    priced = model("m", price={"input": "0.05USD", "output": "0.2USD"})
    (entry,) = entries(priced)
    assert entry["price_info"] == {"price": 0.00025, "currency": "usd", "unit": "fixed"}
    assert "m: a request costs 0.00025 USD, as 1000 tokens" in remarks(priced, price=None)
    assert remarks(priced, price="0.002USD") == ""


@pytest.mark.parametrize("price", [{}, {"input": "1EUR", "output": "1EUR"}])
def test_without_a_price_in_dollars_there_is_none_and_a_remark(price: dict[str, str]) -> None:
    (entry,) = entries(model("m", price=price))
    assert "price_info" not in entry
    assert "model m: has no price in USD" in remarks(model("m", price=price), price=None)


def test_different_prices_are_remarked_since_any_route_leads_to_any_model() -> None:
    cheap, dear = model("a", price={"output": "1USD"}), model("b", price={"output": "2USD"})
    assert "the models' prices differ" in remarks(cheap, dear, price=None)
    assert "the models' prices differ" in remarks(cheap, model("c"), price=None)
    assert remarks(cheap, dear, price="0.1USD") == ""


def test_a_server_that_would_refuse_all_that_comes_is_remarked() -> None:
    assert "refused with 403: set REVERIE_API_KEYS" in remarks(keyless=True)
    assert remarks(keyless=True, server={"no_auth": True}) == ""
    assert remarks(keyless=False) == ""
    trusting = {"trusted_proxies": ["127.0.0.1"]}
    assert "trusted_proxies doesn't help" in remarks(keyless=True, server=trusting)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        found(runner_url="x", label="", price="x")
    assert len(caught.value.problems) == 3


def test_the_documentation_shows_what_is_written_for_the_default_model() -> None:
    page = (Path(__file__).parent.parent / "docs" / "livepeer.md").read_text()
    shown = page.split("## As a live runner")[1].split("```json\n")[1].split("```")[0]
    written = describe(Settings(), Wishes(price="0.002USD"), keyless=False).json
    assert shown.strip() == written.replace(reverie.__version__, "0.1.0")
