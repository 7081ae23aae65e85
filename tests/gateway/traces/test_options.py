"""``[traces]``, and OpenTelemetry's own variables where nothing is written."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from reverie.errors import ConfigurationError
from reverie.gateway.traces.options import TraceOptions, options_of
from reverie.settings import TracesSettings

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
URL = "http://collector:4318"


def options(written: dict[str, Any] | None = None, **environ: str) -> TraceOptions:
    found = options_of(TracesSettings.model_validate(written or {}), environ)
    assert found is not None
    return found


def test_without_an_endpoint_there_are_no_traces() -> None:
    assert options_of(TracesSettings(), {}) is None


@pytest.mark.parametrize(
    ("written", "posted_to"),
    [
        (URL, f"{URL}/v1/traces"),
        (f"{URL}/", f"{URL}/v1/traces"),
        (f"{URL}/api/otel", f"{URL}/api/otel/v1/traces"),
        (f"{URL}/v1/traces", f"{URL}/v1/traces"),
        (f"{URL}/own/traces", f"{URL}/own/traces"),
    ],
)
def test_the_path_is_completed(written: str, posted_to: str) -> None:
    assert options({"endpoint": written}).endpoint == posted_to
    assert options(OTEL_EXPORTER_OTLP_ENDPOINT=written).endpoint == posted_to


@pytest.mark.parametrize(
    "wrong",
    ["collector:4318", "grpc://a:1", "http://", "http://u:p@a", "http://a?x=1", "http://a b"],
)
def test_what_is_no_endpoint_is_a_mistake_where_it_is_written(wrong: str) -> None:
    with pytest.raises(ValidationError):
        TracesSettings(endpoint=wrong)


def test_the_file_is_stronger_than_the_variables() -> None:
    found = options(
        {"endpoint": "http://own:1", "sample": 1.0, "conventions": "1.41"},
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=URL,
        OTEL_TRACES_SAMPLER="always_off",
        OTEL_SEMCONV_STABILITY_OPT_IN="gen_ai_latest_experimental",
    )
    assert found.endpoint == "http://own:1/v1/traces"
    assert (found.sample, found.parent_based, found.latest) == (1.0, True, False)
    assert found.is_configured


def test_the_variable_for_traces_is_stronger_than_that_for_all_signals() -> None:
    found = options(
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://traces:1/v1/traces",
        OTEL_EXPORTER_OTLP_ENDPOINT=URL,
        OTEL_EXPORTER_OTLP_HEADERS="a=1",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="b=2%203",
    )
    assert found.endpoint == "http://traces:1/v1/traces"
    assert found.headers == {"b": "2 3"}
    assert not found.is_configured


@pytest.mark.parametrize(
    "more",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {BASE: "unix:/a"},
    ],
)
def test_variables_that_rule_it_out_leave_traces_off(more: dict[str, str]) -> None:
    assert options_of(TracesSettings(), {BASE: URL, **more}) is None


@pytest.mark.parametrize(
    ("sampler", "ratio", "parent_based"),
    [
        ("always_on", 1.0, False),
        ("always_off", 0.0, False),
        ("traceidratio", 0.25, False),
        ("parentbased_always_on", 1.0, True),
        ("parentbased_always_off", 0.0, True),
        ("parentbased_traceidratio", 0.25, True),
    ],
)
def test_the_sampler_of_the_variables_is_honoured(
    sampler: str, ratio: float, parent_based: bool
) -> None:
    environ = {BASE: URL, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    found = options(**environ)
    assert (found.sample, found.parent_based) == (ratio, parent_based)


@pytest.mark.parametrize(
    "more",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
    ],
)
def test_a_sampler_that_is_not_known_is_told_and_all_is_traced(
    more: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert options(**{BASE: URL, **more}).sample == 1.0
    assert [record.getMessage() for record in caplog.records] == ["a variable is ignored"]


def test_the_resource_has_the_name_from_the_strongest_variable() -> None:
    environ = {BASE: URL, "OTEL_RESOURCE_ATTRIBUTES": "service.name=b,deployment.environment=x%2Cy"}
    assert options(**environ).service == "b"
    assert options(**environ).resource == {"deployment.environment": "x,y"}
    assert options(**environ, OTEL_SERVICE_NAME="a").service == "a"
    assert options(**{BASE: URL}).service == "reverie"


@pytest.mark.parametrize("held", [None, "", "no-equals", "a b=1", "a=1\r\nX: 2", "a=%0d%0aX"])
def test_headers_that_cannot_be_sent_keep_the_server_from_starting(held: str | None) -> None:
    settings = TracesSettings(endpoint=URL, headers_env="OURS")
    with pytest.raises(ConfigurationError, match=r"traces\.headers_env: .*OURS") as caught:
        options_of(settings, {} if held is None else {"OURS": held})
    assert not held or held not in caught.value.problems[0]  # it may be a secret
