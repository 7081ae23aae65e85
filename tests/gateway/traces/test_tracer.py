"""Traces that are off cost nothing; those that can't be had say so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reverie.errors import ConfigurationError
from reverie.gateway.traces.tracer import tracer_of
from reverie.settings import TracesSettings

URL = "http://127.0.0.1:4318"


@pytest.mark.integration
def test_while_they_are_off_nothing_that_they_need_is_imported() -> None:
    """FastAPI imports ``opentelemetry-api`` by itself where that is installed."""
    program = (
        "import sys; from reverie.app import Application; from reverie.settings import Settings; "
        "Application(Settings(), environ={}); "
        "print([n for n in sys.modules if n.startswith(('opentelemetry.proto', 'google.'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == "[]\n"


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry.proto")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto", None)
    monkeypatch.delitem(sys.modules, "reverie.gateway.traces.otlp", raising=False)
    monkeypatch.delattr("reverie.gateway.traces.otlp", raising=False)


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_the_server_says_how_to_get_it() -> None:
    with pytest.raises(ConfigurationError, match=r'pip install "reverie\[otel\]"'):
        tracer_of(TracesSettings(endpoint=URL), {})


@pytest.mark.usefixtures("without_the_extra")
def test_a_variable_of_the_machine_s_keeps_no_server_from_starting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert tracer_of(TracesSettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": URL}) is None
    assert [record.getMessage() for record in caplog.records] == ["no traces are sent"]
