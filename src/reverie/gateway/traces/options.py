"""What traces are to be like: ``[traces]``, and OpenTelemetry's own environment variables.

Rule: what is written in ``[traces]`` holds. A variable counts where nothing is written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from pydantic import ValidationError

from reverie.errors import ConfigurationError
from reverie.log import fields
from reverie.settings import TracesSettings

logger = logging.getLogger("reverie.traces")

_LATEST = "gen_ai_latest_experimental"
_DEFAULT_NAME = "reverie"
_TRUE = ("true", "1")


class TraceOptions(NamedTuple):
    """What is in force."""

    endpoint: str
    """Where spans are posted to."""
    is_configured: bool = True
    """False: only a variable of OpenTelemetry's names the endpoint."""
    sample: float = 1.0
    parent_based: bool = True
    """A caller's ``traceparent`` says whether its request is traced."""
    content: bool = False
    latest: bool = False
    """The names of the newest conventions, in place of 1.41."""
    headers: Mapping[str, str] = {}
    service: str = _DEFAULT_NAME
    resource: Mapping[str, str] = {}
    """Further attributes of this server."""


def options_of(settings: TracesSettings, environ: Mapping[str, str]) -> TraceOptions | None:
    """What is in force; None: there are no traces.

    Raises:
        ConfigurationError: the headers' variable is missing or malformed.
    """
    endpoint = settings.endpoint or _endpoint_in(environ)
    if endpoint is None:
        return None
    written = settings.model_fields_set
    sampler = _Sampler(settings.sample) if "sample" in written else _sampler_in(environ)
    resource = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")) or {}
    named = resource.pop("service.name", _DEFAULT_NAME)
    opted_in = environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
    conventions = settings.conventions
    if "conventions" not in written and _LATEST in map(str.strip, opted_in):
        conventions = "latest"
    return TraceOptions(
        endpoint=endpoint if endpoint.endswith("/traces") else f"{endpoint}/v1/traces",
        is_configured=settings.endpoint is not None,
        sample=sampler.ratio,
        parent_based=sampler.parent_based,
        content=settings.content,
        latest=conventions == "latest",
        headers=_headers(settings.headers_env, environ),
        service=environ.get("OTEL_SERVICE_NAME") or named,
        resource=resource,
    )


def _endpoint_in(environ: Mapping[str, str]) -> str | None:
    """The endpoint that OpenTelemetry's variables name, if this server can send there."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() in _TRUE
    if off or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    name, found = _first(
        environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if not found:
        return None
    _, protocol = _first(
        environ, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol not in ("", "http/protobuf"):
        _ignore(name, "spans are sent by the protocol http/protobuf only")
        return None
    try:
        return TracesSettings(endpoint=found).endpoint
    except ValidationError as error:
        _ignore(name, str(error.errors()[0]["msg"]).removeprefix("Value error, "))
        return None


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """The first of these variables that is set, and its value."""
    found = next((name for name in names if environ.get(name)), names[-1])
    return found, environ.get(found, "").strip()


def _ignore(variable: str, why: str) -> None:
    logger.warning("a variable is ignored", extra=fields(variable=variable, reason=why))


class _Sampler(NamedTuple):
    ratio: float = 1.0
    parent_based: bool = True


def _sampler_in(environ: Mapping[str, str]) -> _Sampler:
    """What ``OTEL_TRACES_SAMPLER`` asks for."""
    named = environ.get("OTEL_TRACES_SAMPLER", "").strip() or "parentbased_always_on"
    kind = named.removeprefix("parentbased_")
    parent_based = kind != named
    if kind in ("always_on", "always_off"):
        return _Sampler(float(kind == "always_on"), parent_based)
    if kind != "traceidratio":
        _ignore(
            "OTEL_TRACES_SAMPLER", "known are always_on, always_off, traceidratio, parentbased_…"
        )
        return _Sampler()
    written = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        ratio = TracesSettings.model_validate({"sample": written}).sample
    except ValidationError:
        _ignore("OTEL_TRACES_SAMPLER_ARG", "it should be a number from 0 to 1")
        ratio = 1.0
    return _Sampler(ratio, parent_based)


def _headers(variable: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """The headers for the collector.

    Raises:
        ConfigurationError: the variable isn't set, or holds no headers.
    """
    key = "traces.headers_env"
    if variable is None:
        key = "environment"
        variable, written = _first(
            environ, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"
        )
    else:
        written = environ.get(variable, "").strip()
        if not written:
            raise ConfigurationError([f"{key}: the environment variable {variable} is not set"])
    found = _pairs(written)
    plain = found is not None and all(
        f"{name}{value}".isascii() and f"{name}{value}".isprintable() and " " not in name
        for name, value in found.items()
    )
    if found is None or not plain:
        raise ConfigurationError(
            [f"{key}: {variable} holds no headers: they are written as NAME=VALUE,NAME=VALUE"]
        )
    return found


def _pairs(text: str) -> dict[str, str] | None:
    """``name=value,name=value``, percent-encoded; None: it isn't that."""
    found: dict[str, str] = {}
    for one in filter(None, map(str.strip, text.split(","))):
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            return None
        found[unquote(name.strip())] = unquote(value.strip())
    return found
