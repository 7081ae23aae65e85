"""Settings → a Livepeer orchestrator's ``-liveRunnerConfig``: this server as its live runners.

An orchestrator (go-livepeer 0.9) gives each runner one ``app``, by which it is found, one capacity
and one price. Models differ in all three, so each has an entry of its own, with the same URL.

Rule: only what the orchestrator would refuse is an error. What it takes, and which is likely not
what its operator wants, is a *remark*.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

import reverie
from reverie.addresses import is_loopback
from reverie.ai_models import PIPELINE
from reverie.errors import ConfigurationError
from reverie.money import NANO, parse_amount, parse_price
from reverie.settings import ModelSettings, ServerSettings, Settings
from reverie.text import in_url

DEFAULT_LABEL = "reverie"
CURRENCY = "USD"
"""The one currency of live runners."""
TYPICAL_TOKENS = 1000
"""Tokens of a prompt, and of an answer, whose price is a request's unless another is given."""

Unit: TypeAlias = Literal["fixed", "hour"]
_UNITS: dict[str, Unit] = {"": "fixed", "/request": "fixed", "/hour": "hour"}
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What stands in a path as it is. The orchestrator forbids slashes, and spaces at the ends."""
_WILDCARDS = ("", "0.0.0.0", "::")


class Price(Struct, frozen=True):
    """What one request costs, or an hour of one."""

    price: Decimal
    currency: str
    unit: Unit


class Runner(Struct, frozen=True, kw_only=True):
    """An entry, with the names of go-livepeer's ``StaticLiveRunnerConfigEntry``."""

    label: str
    routing: str = "label"
    runner_url: str
    health_url: str = "/readyz"
    healthy_status_code: int = 200
    app: str
    version: str = reverie.__version__
    metadata: str
    mode: str = "single-shot"
    capacity: int
    price_info: Price | UnsetType = UNSET


class Wishes(NamedTuple):
    """What an operator wants to be other than the settings say."""

    runner_url: str | None = None
    label: str = DEFAULT_LABEL
    price: str | None = None


class LiveRunners(NamedTuple):
    """A file's content."""

    runners: tuple[Runner, ...]
    remarks: tuple[str, ...]

    @property
    def json(self) -> str:
        """The file."""
        encoder = msgspec.json.Encoder(decimal_format="number")
        return msgspec.json.format(encoder.encode({"runners": self.runners}), indent=2).decode()


def describe(settings: Settings, wishes: Wishes, *, keyless: bool) -> LiveRunners:
    """This server's entries.

    Args:
        keyless: callers need no key.

    Raises:
        ConfigurationError: with every mistake that was found.
    """
    problems: list[str] = []
    url = _url(settings.server, wishes.runner_url, problems)
    price = None if wishes.price is None else _price(wishes.price, problems)
    if not _LABEL.fullmatch(wishes.label):
        problems.append("--label: must be 1 to 64 letters, digits, dots, hyphens and underscores")
    if problems:
        raise ConfigurationError([f"command line: {problem}" for problem in problems])
    labels = _labels(wishes.label, settings.models)
    runners = tuple(
        Runner(
            label=label,
            runner_url=url,
            app=f"{_pipeline(model)}/{model.name.strip()}",
            metadata=msgspec.json.encode({"model": model.name}).decode(),
            capacity=_capacity(model),
            price_info=price or _price_of(model) or UNSET,
        )
        for label, model in zip(labels, settings.models, strict=True)
    )
    remarks = (
        *_about_address(settings.server, url, given=wishes.runner_url is not None),
        *_about_callers(settings.server, keyless=keyless),
        *_about_prices(settings.models, runners, given=price is not None),
    )
    return LiveRunners(runners, remarks)


def _url(server: ServerSettings, given: str | None, problems: list[str]) -> str:
    """The URL by which the orchestrator reaches this server, without a slash at its end."""
    if given is not None:
        if not _is_target(given):
            problems.append(
                "--runner-url: must be an http:// or https:// URL with a host, without credentials,"
                " query or fragment, which an orchestrator doesn't pass on"
            )
        return given.rstrip("/")
    if server.port == 0:
        problems.append("--runner-url: is needed, since server.port is 0, any free port")
    host = "127.0.0.1" if server.host in _WILDCARDS else server.host.strip("[]")
    return f"http://{in_url(host)}:{server.port}"


def _is_target(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    clean = url.isprintable() and not set(url) & set(" ?#") and "@" not in parts.netloc
    return has_host and clean and parts.scheme in ("http", "https")


def _price(text: str, problems: list[str]) -> Price | None:
    """Read ``0.002USD``, ``0.002USD/request`` or ``3.50USD/hour``."""
    written, slash, per = text.strip().partition("/")
    try:
        amount = parse_amount(written)
        unit = _UNITS[slash + per]
    except (KeyError, ValueError):
        amount = None
    if amount is None or amount.currency != CURRENCY or amount.nano == 0:
        problems.append(
            "--price: write more than 0 USD per request or per hour, as in 0.002USD or 3.50USD/hour"
        )
        return None
    return _in_usd(amount.nano, unit)


def _price_of(model: ModelSettings) -> Price | None:
    """The price of a request for a typical number of tokens; None if it can't be told."""
    read, written = parse_price(model.price.input), parse_price(model.price.output)
    nano = TYPICAL_TOKENS * (read.nano + written.nano)
    return _in_usd(nano, "fixed") if nano and read.currency == CURRENCY else None


def _in_usd(nano: int, unit: Unit) -> Price:
    value = Decimal(f"{Decimal(nano) / NANO:.9f}".rstrip("0").rstrip("."))
    return Price(value, CURRENCY.lower(), unit)


def _labels(prefix: str, models: Sequence[ModelSettings]) -> list[str]:
    """A label for each model, which can stand in a path and in a host's name."""
    labels: list[str] = []
    for model in models:
        short = re.sub(r"[^a-z0-9]+", "-", model.name.lower()).strip("-") or "model"
        label, count = f"{prefix}-{short}", 1
        while label in labels:
            count += 1
            label = f"{prefix}-{short}-{count}"
        labels.append(label)
    return labels


def _pipeline(model: ModelSettings) -> str:
    return PIPELINE if model.task == "generate" else model.task


def _capacity(model: ModelSettings) -> int:
    """Requests that it runs at once, so that none that the orchestrator sends has to wait."""
    if model.engine_bounds is not None:
        return model.slots * model.engine_bounds[1]
    return model.slots if model.source else sum(backend.slots for backend in model.backends)


def _about_address(server: ServerSettings, url: str, *, given: bool) -> Iterator[str]:
    away = not is_loopback(urlsplit(url).hostname or "")
    if not given and server.host in _WILDCARDS:
        yield (
            f"runner_url is {url}, where an orchestrator on this machine finds the server: "
            "give --runner-url for one on another"
        )
    if given and away and is_loopback(server.host):
        yield (
            f"server.host: {server.host} is reached from this machine only, and --runner-url names "
            "another: an orchestrator gets there only if something passes its requests on"
        )


def _about_callers(server: ServerSettings, *, keyless: bool) -> Iterator[str]:
    if keyless and not server.no_auth:
        yield (
            "no key is set, so what an orchestrator passes on is refused with 403: set "
            "REVERIE_API_KEYS, and callers send one of the keys, or server.no_auth, to serve "
            "everyone whom the orchestrator lets in; server.trusted_proxies doesn't help, since an "
            "orchestrator doesn't say where a request came from"
        )


def _about_prices(
    models: Sequence[ModelSettings], runners: Sequence[Runner], *, given: bool
) -> Iterator[str]:
    for model, runner in zip(models, runners, strict=True):
        if runner.price_info is UNSET:
            yield (
                f"model {model.name}: has no price in {CURRENCY}, and an orchestrator that is paid "
                "(on-chain) refuses a runner without one: give --price"
            )
        elif not given:
            yield (
                f"model {model.name}: a request costs {runner.price_info.price:f} {CURRENCY}, as "
                f"{TYPICAL_TOKENS} tokens of prompt and {TYPICAL_TOKENS} of answer do here, since "
                "an orchestrator counts no tokens: give --price for another"
            )
    if len({runner.price_info for runner in runners}) > 1:
        yield (
            "the models' prices differ, and an orchestrator doesn't look at the model that a "
            "request names: who pays for the cheapest can ask for any; give one --price for all, "
            "or let each model have a server of its own"
        )
